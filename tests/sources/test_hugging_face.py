"""Folders of transformers networks: the head that the config names, the same outputs, and no code of theirs is run."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

import packlight as pl
from packlight.model.plausible import plausible_inputs
from packlight.sources.hugging_face.bound import bounded
from packlight.task.readers import sentence_encoder_files

T = pytest.importorskip("transformers", reason="pip install 'packlight[transformers]'")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

# The same kernels as the module's, float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
PICTURE = {"image_size": 32, "patch_size": 8, "num_channels": 3, "num_labels": 4}

# Class → its config. Whether `prune` cuts it, and whether it is written for ONNX Runtime with the same outputs, is
# what the slow test below finds.
NETWORKS = {
    "BertForSequenceClassification": lambda: T.BertConfig(**SMALL, num_labels=4),
    "BertForTokenClassification": lambda: T.BertConfig(**SMALL, num_labels=4),
    "DistilBertForMaskedLM": lambda: T.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50),
    "RobertaForQuestionAnswering": lambda: T.RobertaConfig(**SMALL, max_position_embeddings=64),
    "GPT2LMHeadModel": lambda: T.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=50),
    "T5EncoderModel": lambda: T.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=50),
    "LlamaForCausalLM": lambda: T.LlamaConfig(**SMALL, num_key_value_heads=1, max_position_embeddings=64),
    "ViTForImageClassification": lambda: T.ViTConfig(**SMALL_PICTURE),
    "DeiTForImageClassification": lambda: T.DeiTConfig(**SMALL_PICTURE),
    "ResNetForImageClassification": lambda: T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4),
    "MobileViTForImageClassification": lambda: T.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 48], num_labels=4,
        num_attention_heads=2),
    "Wav2Vec2ForSequenceClassification": lambda: T.Wav2Vec2Config(
        **SMALL, conv_dim=[8, 8, 8], conv_stride=[5, 4, 4], conv_kernel=[10, 8, 8], num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, num_labels=4),
    "WhisperForAudioClassification": lambda: T.WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8, vocab_size=60,
        max_source_positions=50, classifier_proj_size=8, num_labels=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1),
}  # fmt: skip
SMALL_PICTURE = {**{k: v for k, v in SMALL.items() if k != "vocab_size"}, **PICTURE}


def saved(folder: Path, name: str = "BertForSequenceClassification"):
    """A network with random weights, and its folder."""
    torch.manual_seed(0)
    module = getattr(T, name)(NETWORKS[name]()).eval()
    module.save_pretrained(folder)
    return module


def outputs(module, model):
    """What module and Model give for the same inputs, larger than those that the Model was captured with."""
    made = plausible_inputs(model, dict.fromkeys(model.dims, 5))
    inputs = {s.name: t for s, t in zip(model.inputs, made, strict=True)}
    module.config.use_cache = False
    with torch.no_grad():
        wanted, got = module(**inputs), model(**inputs)
    return {k: v for k, v in wanted.items() if isinstance(v, torch.Tensor)}, got


@pytest.fixture
def bert(tmp_path):
    saved(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_folder_is_the_network_with_the_head_that_its_config_names(tmp_path):
    module = saved(tmp_path / "bert")
    model = pl.load(tmp_path / "bert")
    assert [str(s) for s in model.inputs] == ["int64[batch, tokens]"] * 2
    assert model.name == "bert"
    assert "bert.encoder.layer.0.intermediate.dense" in model.layers()
    wanted, got = outputs(module, model)
    assert got.keys() == {"logits"}
    torch.testing.assert_close(got["logits"], wanted["logits"], **CLOSE)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got["logits"] * 1.01, wanted["logits"], **CLOSE)


def test_its_tokenizer_goes_along_through_passes_files_and_exports(bert, tmp_path):
    (bert / "tokenizer.json").write_text('{"version": "1.0"}')
    (bert / "README.md").write_text("not carried")
    model = pl.load(bert)
    assert set(model.files) == {"config.json", "tokenizer.json"}
    small = pl.quantize(model, mode="weights", weights=8, group=None)
    again = pl.load(small.save(tmp_path / "small.plm"))
    assert again.files == model.files
    pl.pack(model, tmp_path / "net.plt")
    assert pl.load(tmp_path / "net.plt").files == model.files
    made = pl.export(again, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert "tokenizer.json" not in made.manifest["files"]


def test_a_tokenizer_that_is_too_large_is_left_behind_with_a_note(bert):
    (bert / "tokenizer.json").write_bytes(b" " * (9 << 20))
    model = pl.load(bert)
    assert "tokenizer.json" not in model.files
    assert any("tokenizer.json is not carried along" in n for n in model.notes)


def test_a_plm_file_cannot_name_a_file_of_its_own_choice(bert, tmp_path):
    model = pl.load(bert)
    model.files = {"../evil.sh": b"rm"}
    model.save(tmp_path / "net.plm")
    with pytest.raises(pl.PacklightError, match="is none that belongs to a network"):
        pl.load(tmp_path / "net.plm")


def edited(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


OWN_CODE = "open('code-of-the-folder-ran', 'w').close()\nclass Net: pass\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["Net"], "auto_map": {"AutoModel": "net.Net"}}, "code of its own, which is not run"),
        ({"architectures": None}, "architecture 'None' is none of transformers"),
        ({"architectures": ["pipeline"]}, "architecture 'pipeline' is none of"),
        ({"model_type": "nothing"}, "cannot be opened"),
        ({"hidden_size": "many"}, "cannot be opened"),
        ({"intermediate_size": 1 << 26}, "more parameters than its 49,... bytes of weights"),
        ({"num_hidden_layers": 1 << 40}, "asks for more parameters than its"),
        ({"hidden_size": 32}, "tensors of BertForSequenceClassification are mismatched|cannot be opened"),
        ({"num_hidden_layers": 2}, "16 tensors of BertForSequenceClassification are missing in its weights"),
        ({"quantization_config": {"quant_method": "gptq"}}, "another tool quantized"),
        (
            {"model_type": None, "architecture": "resnet18"},
            r"needs the timm package; run: pip install 'packlight\[timm\]'",
        ),
    ],
)
def test_what_is_not_loaded_is_refused_in_one_line(bert, changes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (bert / "net.py").write_text(OWN_CODE)
    with pytest.raises(pl.PacklightError, match=said) as caught:
        pl.load(edited(bert, **changes))
    assert "\n" not in str(caught.value)
    assert not Path("code-of-the-folder-ran").exists()


def test_a_config_cannot_ask_for_endless_layers_without_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1600))
    with bounded(tmp_path):
        torch.nn.ModuleList(torch.nn.ReLU() for _ in range(9_000))
    with pytest.raises(pl.PacklightError, match="more layers than its 1,600 bytes"), bounded(tmp_path):
        torch.nn.ModuleList(torch.nn.ReLU() for _ in range(1 << 40))


def test_own_code_beside_a_network_of_transformers_is_not_run(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (bert / "net.py").write_text(OWN_CODE)
    edited(bert, auto_map={"AutoModelForSequenceClassification": "net.Net"}, _attn_implementation="evil/kernel")
    assert pl.load(bert).layers()
    assert not Path("code-of-the-folder-ran").exists()


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("pickled-code-ran"),))


def test_pickled_weights_are_read_without_running_them(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = pl.load(bert)
    tensors = dict(T.BertForSequenceClassification.from_pretrained(bert).state_dict())
    (bert / "model.safetensors").unlink()
    torch.save(tensors, bert / "pytorch_model.bin")
    assert pl.load(bert).fingerprint() == wanted.fingerprint()
    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(pl.PacklightError, match="cannot be opened"):
        pl.load(bert)
    assert not Path("pickled-code-ran").exists()


def test_damaged_and_missing_files_are_refused(bert):
    held = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(held[: len(held) // 2])
    with pytest.raises(pl.PacklightError, match="cannot be opened"):
        pl.load(bert)
    (bert / "model.safetensors").unlink()
    with pytest.raises(pl.PacklightError, match=r"no weights; it needs model\.safetensors"):
        pl.load(bert)
    (bert / "config.json").write_text("{")
    with pytest.raises(pl.PacklightError, match="is no JSON"):
        pl.load(bert)


def test_shards_outside_the_folder_are_refused(bert):
    (bert / "model.safetensors").rename(bert.parent / "model-1.safetensors")
    (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    with pytest.raises(pl.PacklightError, match="names a file outside its folder"):
        pl.load(bert)


def test_an_id_comes_from_the_local_cache_and_from_nowhere_else(bert, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--house--bert"
    shutil.copytree(bert, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    assert pl.load("house/bert").fingerprint() == pl.load(bert).fingerprint()
    with pytest.raises(pl.PacklightError, match="house/other does not exist"):
        pl.load("house/other")


def test_without_transformers_the_line_that_installs_it_is_given(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(pl.PacklightError, match=r"pip install 'packlight\[transformers\]'"):
        pl.load(bert)


@pytest.mark.slow
def test_a_real_encoder_is_loaded_quantized_and_exported(tmp_path):
    try:
        sentence_encoder = Path(sentence_encoder_files()["model.safetensors"]).parent
    except pl.PacklightError as error:
        pytest.skip(str(error))
    model = pl.load(sentence_encoder)
    module = T.BertModel.from_pretrained(sentence_encoder).eval()
    wanted, got = outputs(module, model)
    torch.testing.assert_close(got["last_hidden_state"], wanted["last_hidden_state"], **CLOSE)
    small = pl.quantize(model, mode="dynamic")
    made, whole = pl.export(small, tmp_path / "int8"), pl.export(model, tmp_path / "float")
    assert (tmp_path / "int8" / "tokenizer.json").read_bytes() == (sentence_encoder / "tokenizer.json").read_bytes()
    assert made.bytes < 0.5 * whole.bytes
    inputs = [torch.randint(1000, 20000, (4, 24)).numpy(), torch.ones(4, 24, dtype=torch.int64).numpy()]
    from packlight.targets.artifact import Runner

    with Runner(whole) as one, Runner(made) as other:
        a, b = (torch.from_numpy(r(*inputs)[0]).mean(1) for r in (one, other))
    assert float(torch.cosine_similarity(a, b).min()) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_in_are_cut_and_go_out(name, tmp_path):
    module = saved(tmp_path / "net", name)
    model = pl.load(tmp_path / "net")
    wanted, got = outputs(module, model)
    assert got.keys() <= wanted.keys()
    for key, value in got.items():
        torch.testing.assert_close(value, wanted[key], **CLOSE)
    small = pl.prune(model, keep=0.5)
    left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    pl.convert(small, tmp_path / "net.onnx")
    assert 0.35 < left < 0.6
