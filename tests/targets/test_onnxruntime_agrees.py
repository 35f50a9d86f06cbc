"""ONNX Runtime computes from the exported file what the Model computes, in every form, for every batch size."""

import numpy as np
import pytest
import torch
from small_networks import EXTRA, inputs_of
from zoo import ZOO

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.parity import check, difference
from packlight.measure.quality import torch_runner
from packlight.targets import Runner

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

BATCHES = (1, 3, 7)
# A float file differs by the order of float32 additions, of which a layer here has a few hundred. Halving rounds each
# weight by up to 2⁻¹¹, independently. In int8 a value between two steps falls either way: up to 4.4e-3 was seen.
LIMITS = {"float32": 5e-6, "float16": 2e-3, "int8": 5e-3}
FAST = {"float32": ("residual", "multi_input"), "float16": (), "int8": ("residual", "encoder")}
SLOW = {
    "float32": (*EXTRA, *ZOO),
    "float16": ("residual", "vit", "lstm", "unet"),
    "int8": (
        "vit", "mlp", "cnn", "dead_channels", "inverted_residual", "depthwise", "inception", "unet", "torch_encoder",
        "lstm", "gru", "squeeze_excite", "other_norms", "decoder", "speech", "multi_input", "einsum_attention",
    ),
}  # fmt: skip
CASES = [
    pytest.param(name, form, id=f"{name}-{form}", marks=() if name in FAST[form] else pytest.mark.slow)
    for form in LIMITS
    for name in dict.fromkeys((*FAST[form], *SLOW[form]))
]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_file_computes_what_the_model_computes(files, name, form):
    model, artifact = files(name, form)
    with Runner(artifact) as runner:
        for batch in BATCHES if "batch" in model.dims else (None,):
            inputs = inputs_of(model) if batch is None else inputs_of(model, batch=batch)
            outputs, wanted = runner(*inputs), torch_runner(model)(*inputs)
            assert len(outputs) == len(wanted)
            for got, want in zip(outputs, wanted, strict=True):
                assert got.dtype == want.dtype
                assert difference(got, want).within(LIMITS[form]), (batch, difference(got, want))


def one_percent(model: pl.Model, weight: str) -> pl.Model:
    """The Model with one weight 1 % larger, by its scale where it has one: the same integers then stand for more."""
    wrong = model.copy()
    for name in (weight, f"{weight}_scale"):
        if name in wrong.named_tensors():
            wrong.set_tensor(name, wrong.named_tensors()[name].detach() * 1.01)
    return wrong


TEETH = [
    ("residual", "float32", "stem.0.weight"), ("residual", "float32", "head.weight"),
    ("residual", "int8", "stem.0.weight"), ("residual", "int8", "head.weight"), ("encoder", "int8", "head.weight"),
    pytest.param("residual", "float16", "stem.0.weight", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "tensor"), TEETH)
def test_a_scale_that_is_wrong_by_one_percent_would_fail(files, name, form, tensor):
    model, artifact = files(name, form)
    inputs = inputs_of(model, batch=64)
    with Runner(artifact) as runner:
        got = runner(*inputs)
    wanted = torch_runner(one_percent(model, tensor))(*inputs)
    assert not all(difference(g, w).within(LIMITS[form]) for g, w in zip(got, wanted, strict=True))


def test_parity_finds_good_files_good(files):
    for form in ("float32", "int8"):
        model, artifact = files("residual", form)
        parity = check(model, artifact, inputs_of(model, batch=16))
        assert parity.ok, parity


@pytest.mark.slow
def test_a_second_dynamic_dimension_is_free_too(files):
    model, artifact = files("two_dynamic", "float32")
    assert artifact.manifest["inputs"][0]["shape"] == ["batch", "length", 6]
    with Runner(artifact) as runner:
        for batch, length in ((1, 1), (1, 5), (4, 2), (3, 3)):
            inputs = inputs_of(model, batch=batch, length=length)
            (got,), (want,) = runner(*inputs), torch_runner(model)(*inputs)
            assert difference(got, want).within(LIMITS["float32"])


def test_nested_outputs_come_back_in_the_models_order(files):
    model, artifact = files("multi_input", "float32")
    assert [o["name"] for o in artifact.manifest["outputs"]] == ["scores", "parts.0", "parts.1.0", "extra.numbers"]
    inputs = inputs_of(model, batch=2)
    with Runner(artifact) as runner:
        outputs = runner(*inputs)
    nested = model(*map(torch.from_numpy, inputs))
    np.testing.assert_allclose(outputs[3], nested["extra"]["numbers"].detach(), rtol=1e-5, atol=1e-6)


def test_inputs_that_do_not_fit_are_told_apart_from_crashes(files):
    _, artifact = files("residual", "float32")
    with Runner(artifact) as runner:
        with pytest.raises(PacklightError, match=r"has shape \[2, 4, 8, 8\], the file takes float32\[batch, 3, 8, 8\]"):
            runner(np.zeros((2, 4, 8, 8), np.float32))
        assert runner(np.zeros((2, 3, 8, 8), np.float32))[0].shape == (2, 4)


@pytest.mark.slow
def test_channels_whose_weights_are_all_zero_keep_their_bias(files):
    model, artifact = files("dead_channels", "int8")
    assert (model.named_tensors()["conv.weight"][::2] == 0).all()
    zeros = np.zeros((1, 3, 8, 8), np.float32)
    with Runner(artifact) as runner:
        (got,) = runner(zeros)
    (want,) = torch_runner(model)(zeros)
    np.testing.assert_allclose(got, want, atol=2e-2 * np.abs(want).max())


def test_timing_memory_and_cold_start_are_measured_inside_the_child(files):
    _, artifact = files("residual", "float32")
    images = (np.zeros((1, 3, 8, 8), np.float32),)
    with Runner(artifact, 1, images) as runner:
        assert len(runner.time(images, 0.0, least=5)) == 5
        taken = runner.time(images, 0.05)
        assert all(0 < t < 1 for t in taken) and sum(taken) <= 0.2
        assert runner.cold_start_s > 0
        assert 0 < runner.peak_memory() < 1 << 30
