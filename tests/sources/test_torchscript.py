"""TorchScript, traced and scripted: the same outputs as the module, read in a process of its own."""

from __future__ import annotations

import zipfile

import pytest
import torch
from captures import call, captured, flat
from torch import Tensor, nn

import packlight as pl
from packlight.sources.torch_module import from_module
from packlight.sources.torchscript.script import Script

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # the same kernels as the module's


class Net(nn.Module):
    """A branch on a number, a loop, in-place writes, lists, a tuple."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor):
        y = torch.relu_(self.norm(self.conv(x)))
        for _ in range(2):
            y = y * 0.5
        y = self.drop(y.mean((2, 3)))
        if y.dim() == 2:
            y = y + 1
        a, b = self.head(y).chunk(2, 1)
        return torch.cat([a, b], 1) * self.scale, b


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(("how", "suffix"), [("trace", ".pt"), ("script", ".ts")])
def test_a_traced_and_a_scripted_file_are_what_the_module_is(module, how, suffix, tmp_path):
    made = torch.jit.trace(module, X) if how == "trace" else torch.jit.script(module)
    made.save(tmp_path / f"net{suffix}")
    model = pl.load(tmp_path / f"net{suffix}", X)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        wanted, got = module(x), model(x)
    torch.testing.assert_close(got, wanted, **CLOSE)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got[0] * 1.01, wanted[0], **CLOSE)
    assert {"conv", "norm", "head"} <= set(model.layers())
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in module.named_parameters()}
    assert sum(p.numel() for p in pl.prune(model, keep=0.5).parameters()) < sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["cnn", "residual", "unet", "vit", "lstm", "einsum_attention", "tied"])
def test_traced_networks_of_the_zoo_are_what_the_module_is(name):
    c = captured(name)
    example = c.example if isinstance(c.example, tuple | dict) else (c.example,)
    module = c.fresh()
    with torch.no_grad():
        kind = {"example_kwarg_inputs": example} if isinstance(example, dict) else {"example_inputs": example}
        traced = torch.jit.trace(module, **kind, strict=False, check_trace=False)
    model = from_module(Script(traced), c.example)
    with torch.no_grad():
        got, wanted = flat(call(model, c.example)), flat(call(module, c.example))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, **CLOSE, equal_nan=True)


def test_example_inputs_are_asked_for(module, tmp_path):
    torch.jit.script(module).save(tmp_path / "net.pt")
    with pytest.raises(pl.PacklightError, match=r"does not say what sizes it takes; give example inputs"):
        pl.load(tmp_path / "net.pt")


def test_operators_outside_the_table_are_refused(tmp_path):
    class Reads(nn.Module):
        def forward(self, x: Tensor):
            return x + torch.from_file("secret", False, 4)

    torch.jit.script(Reads()).save(tmp_path / "net.pt")
    with pytest.raises(pl.PacklightError, match="operators without a rule: aten::from_file"):
        pl.load(tmp_path / "net.pt", torch.zeros(4))


def test_a_loop_without_end_is_refused():
    class Endless(nn.Module):
        def forward(self, x: Tensor):
            n = 0
            while n >= 0:
                n += 1
            return x * n

    with pytest.raises(pl.PacklightError, match="a loop of it has more than 1,000 turns"):
        from_module(Script(torch.jit.script(Endless())), torch.zeros(4))


def test_a_branch_on_values_is_refused():
    class Branch(nn.Module):
        def forward(self, x: Tensor):
            if bool(x.sum() > 0):
                return x
            return -x

    with pytest.raises(pl.PacklightError, match="values of a tensor"):
        from_module(Script(torch.jit.script(Branch())), torch.zeros(4))


def test_a_damaged_archive_and_a_bomb_are_refused(module, tmp_path):
    torch.jit.script(module).save(tmp_path / "net.pt")
    held = bytearray((tmp_path / "net.pt").read_bytes())
    (tmp_path / "net.pt").write_bytes(held.replace(b"__torch__", b"__torcx__"))
    with pytest.raises(pl.PacklightError, match=r"is refused|crashed"):
        pl.load(tmp_path / "net.pt", X)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/code/__torch__.py", b" " * 50_000_000)
    with pytest.raises(pl.PacklightError, match=r"declares more than the bytes"):
        pl.load(tmp_path / "bomb.pt", X)
