"""`.pt2` files of torch.export.save: the same network as the module's, and nothing in a file is run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from captures import call, captured, flat, resized
from torch import nn
from zoo import ZOO

import packlight as pl

# The same kernels as the module's; where memory is laid out otherwise they sum in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
WEIGHT = "data/weights/weight_0"


class Net(nn.Module):
    """In-place writes, a region without gradients, a constant, a buffer, nested outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x):
        y = self.drop(torch.relu_(self.norm(self.conv(x))).mean((2, 3)))
        with torch.no_grad():
            high = y.amax(1, keepdim=True)
        a, b = self.head(y + high).chunk(2, 1)
        return {"whole": self.head(y) * self.scale, "parts": (a, b * torch.tensor([1.0, 2.0]))}


def saved(path: Path, module: nn.Module | None = None, x=None, *, train=False, high=64) -> Path:
    x = torch.randn(4, 3, 8, 8) if x is None else x
    shapes = ({0: torch.export.Dim("batch", min=2, max=high)},)
    module = (module or Net()).train(train)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), path)
    return path


def rewritten(source: Path, out: Path, **changes) -> Path:
    """A copy of an archive with members (named by their end, "__" for "/" and "_json" for ".json") changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            held = old.read(member)
            for end, change in changes.items():
                if member.filename.endswith(end.replace("__", "/").replace("_json", ".json")):
                    held = change(held)
            new.writestr(member.filename, held)
    return out


def program(change):
    """A change of the program's JSON."""

    def changed(held: bytes) -> bytes:
        document = json.loads(held)
        change(document["graph_module"])
        return json.dumps(document).encode()

    return changed


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return saved(tmp_path_factory.mktemp("pt2") / "net.pt2")


@pytest.mark.parametrize("name", [n for n in ZOO if n != "stochastic_depth"])
def test_every_network_of_the_zoo_is_what_the_module_is(name, tmp_path):
    c = captured(name)
    module = c.fresh()
    args, kwargs = ((), c.example) if isinstance(c.example, dict) else (c.example, {})
    args = args if isinstance(args, tuple) else (args,)
    torch.export.save(torch.export.export(module, args, kwargs, strict=False), tmp_path / "net.pt2")
    model = pl.load(tmp_path / "net.pt2")
    with torch.no_grad():
        wanted, got = call(module, c.example), call(model, c.example)
    for g, w in zip(flat(got), flat(wanted), strict=True):
        torch.testing.assert_close(g, w, **CLOSE, equal_nan=True)
    assert torch.utils._pytree.tree_structure(got) == torch.utils._pytree.tree_structure(wanted)
    assert set(model.layers()) == set(c.model.layers())


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_a_dynamic_batch_stays_dynamic_within_the_range_of_the_file(tmp_path, batch):
    torch.manual_seed(0)
    module = Net().eval()
    model = pl.load(saved(tmp_path / "net.pt2", module))
    x = torch.randn(batch, 3, 8, 8)
    with torch.no_grad():
        wanted, got = module(x), model(x)
    torch.testing.assert_close(got, wanted, **CLOSE)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got["whole"] * 1.01, wanted["whole"], **CLOSE)


def test_names_sizes_and_limits_are_those_of_the_file(archive):
    model = pl.load(archive)
    assert str(model.inputs[0]) == "float32[batch, 3, 8, 8]"
    assert [(o.name, o.shape) for o in model.outputs] == [
        ("whole", ("batch", 4)), ("parts.0", ("batch", 2)), ("parts.1", ("batch", 2))]  # fmt: skip
    assert model.limits == {"batch": (1, 64)}
    assert {"conv", "norm", "drop", "head.linear"} <= set(model.layers())
    assert {"conv.weight", "norm.running_mean", "scale"} <= set(model.named_tensors())
    with pytest.raises(pl.PacklightError, match="dimension 'batch' is 65"):
        model(torch.zeros(65, 3, 8, 8))
    assert str(pl.load(archive, dynamic={}).inputs[0]) == "float32[4, 3, 8, 8]"
    assert str(pl.load(archive, dynamic={"x": {0: "n"}}).inputs[0]) == "float32[n, 3, 8, 8]"


@pytest.mark.parametrize("train", [False, True])
def test_dropout_and_norms_train_when_the_model_does(tmp_path, train):
    model = pl.load(saved(tmp_path / "net.pt2", train=train))
    x = torch.ones(8, 3, 8, 8)
    assert torch.equal(model(x)["whole"], model(x)["whole"])
    model.train()
    assert not torch.equal(model(x)["whole"], model(x)["whole"])
    assert any("train mode" in n for n in model.notes) == train


def test_a_network_without_dropout_says_that_train_mode_is_eval_mode(tmp_path):
    model = pl.load(saved(tmp_path / "net.pt2", nn.Conv2d(3, 4, 3)))
    assert any("train mode is the same as eval mode" in n for n in model.notes)


def test_the_older_layout_of_the_archive_is_read(archive, tmp_path):
    weights, constants = io.BytesIO(), io.BytesIO()
    model = pl.load(archive)
    with zipfile.ZipFile(archive) as old:
        document = next(old.read(n) for n in old.namelist() if n.endswith("models/model.json"))
    held = {n: t for n, t in model.named_tensors().items() if n != "lifted_tensor_0"}
    torch.save(held | {"norm.num_batches_tracked": torch.tensor(0)}, weights)
    torch.save({"lifted_tensor_0": model.named_tensors()["lifted_tensor_0"]}, constants)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as new:
        new.writestr("serialized_exported_program.json", document)
        new.writestr("serialized_state_dict.pt", weights.getvalue())
        new.writestr("serialized_constants.pt", constants.getvalue())
        new.writestr("version", "8.2")
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(pl.load(tmp_path / "old.pt2")(x), model(x))


def test_trust_has_torch_open_the_file(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    path = saved(tmp_path / "net.pt2", module)
    x, own, trusted = torch.randn(3, 3, 8, 8), pl.load(path), pl.load(path, trust=True)
    torch.testing.assert_close(trusted(x), own(x))
    assert trusted.inputs == own.inputs
    assert trusted.outputs == own.outputs
    assert any("opened with trust" in n for n in trusted.notes)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("pickled-code-ran"),))


def fake(target):
    def change(module):
        module["graph"]["nodes"][0]["target"] = target

    return program(change)


def sized(shape, strides=None):
    def change(held: bytes) -> bytes:
        document = json.loads(held)
        meta = document["config"]["conv.weight"]["tensor_meta"]
        meta["sizes"] = [{"as_int": n} for n in shape]
        if strides:
            meta["strides"] = [{"as_int": n} for n in strides]
        return json.dumps(document).encode()

    return change


def pickled(held: bytes) -> bytes:
    document = json.loads(held)
    document["config"]["conv.weight"]["use_pickle"] = True
    return json.dumps(document).encode()


def symbol(text):
    def change(module):
        module["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    return program(change)


def input_named(text):
    return lambda held: held.replace(b'"x"', json.dumps(text).encode())


def cut_graph(module):
    del module["graph"]["nodes"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models__model_json": fake("torch.ops.aten.from_file.default")}, "without a place in packlight's table"),
        ({"models__model_json": fake("os.system")}, r"table: os\.system"),
        ({"models__model_json": fake("torch.ops.aten.conv2d.__init__")}, "without a place"),
        ({"models__model_json": symbol("__import__('os').system('touch pickled-code-ran')")}, "has the size"),
        ({"models__model_json": input_named("x): import os #")}, "is no identifier|malformed"),
        ({"models__model_json": program(cut_graph)}, "used before it is made"),
        ({"models__model_json": lambda held: b"{"}, "is no JSON"),
        ({"models__model_json": lambda held: b"[" * 100_000}, "is no JSON"),
        ({"models__model_json": lambda held: b"{}"}, "malformed"),
        ({"model_weights_config_json": lambda held: held}, None),
        ({"model_weights_config_json": sized([1 << 36, 3, 3, 3])}, "needs more than the"),
        ({"model_weights_config_json": sized([1 << 36, 3, 3, 3], [0, 0, 0, 0])}, "needs more than the"),
        ({"model_weights_config_json": sized([-8, 3, 3, 3])}, "has the size"),
        ({"model_weights_config_json": sized([4, 3, 3, 3])}, "does not fit|malformed|refused"),
        ({"model_weights_config_json": pickled, "weights__weight_0": lambda held: pickle.dumps(Bomb())},
         "without running its code"),
        ({"weights__weight_0": lambda held: b""}, "needs more than the 0 bytes"),
        ({"byteorder": lambda held: b"big"}, "big-endian"),
    ],
)  # fmt: skip
def test_a_hostile_or_damaged_archive_is_refused_in_one_line_and_runs_nothing(
    changes, said, archive, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = rewritten(archive, tmp_path / "forged.pt2", **changes)
    if said is None:
        assert pl.load(path).layers()
        return
    with pytest.raises(pl.PacklightError, match=said) as caught:
        pl.load(path)
    assert "\n" not in str(caught.value)
    assert not Path("pickled-code-ran").exists()


def test_a_compressed_archive_may_be_a_bomb_and_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/models/net.json", b"0" * 50_000_000)
    with pytest.raises(pl.PacklightError, match="declares more than the bytes"):
        pl.load(tmp_path / "net.pt2")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(pl.PacklightError, match=r"is no \.pt2 archive"):
        pl.load(tmp_path / "net.pt2")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_cut_archive_is_refused(archive, part, tmp_path):
    held = archive.read_bytes()
    (tmp_path / "net.pt2").write_bytes(held[: int(len(held) * part)])
    with pytest.raises(pl.PacklightError, match=r"is no \.pt2 archive|holds no exported program|is damaged"):
        pl.load(tmp_path / "net.pt2")


def test_a_network_that_reads_what_it_changes_is_refused(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen.add_(1)
            return x + self.seen

    with pytest.raises(pl.PacklightError, match="changes its own tensor 'seen'"):
        pl.load(saved(tmp_path / "net.pt2", Counter()))


def test_it_is_pruned_and_quantized_like_any_other(archive):
    model = pl.load(archive)
    small = pl.prune(model, keep=0.5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert pl.quantize(model, mode="weights", weights=8, group=None).is_quantized
    again = resized(torch.randn(2, 3, 8, 8), 3)
    assert call(small, again)["whole"].shape == (3, 4)
