"""Networks that cannot be exported: the error names the line, what is usually done, and which parts export alone."""

from __future__ import annotations

import linecache
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import packlight as pl


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.sign(x.detach().numpy()))  # Sign

    @staticmethod
    def backward(ctx, grad):
        return grad


class Whole(nn.Module):
    """Two parts that export, and what the subclass does between them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.body(x)))


class Branch(Whole):
    def between(self, x):
        if x.sum() > 0:  # Branch
            return x
        return -x


class Loop(Whole):
    def between(self, x):
        while x.norm() > 1:  # Loop
            x = x / 2
        return x


class Item(nn.Module):
    def forward(self, x):
        return x * round(x.max().item())  # Item


class Float(Whole):
    def between(self, x):
        return x * float(x.mean())  # Float


class Numpy(Whole):
    def between(self, x):
        return torch.from_numpy(np.tanh(x.detach().numpy()))  # Numpy


class Listed(Whole):
    def between(self, x):
        return torch.stack(x.tolist())  # Listed


class Custom(Whole):
    def between(self, x):
        return Sign.apply(x)


class Device(Whole):
    def between(self, x):
        return x.to("cuda") if not torch.cuda.is_available() else x.numpy()  # Device


class Mask(nn.Module):
    def forward(self, x):
        return x[x > 0]  # Mask


class Unique(nn.Module):
    def forward(self, x):
        return x.unique().sum()  # Unique


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Branch, r"it branches on the values of a tensor .*torch\.where\(condition, a, b\)"),
        (Loop, r"it branches on the values of a tensor .*torch\.where"),
        (Item, r"it makes a Python number of a tensor .*keep it a tensor"),
        (Float, r"it makes a Python number of a tensor .*keep it a tensor"),
        (Numpy, "numpy and other code that is not torch's cannot be captured; use torch's own functions"),
        (Listed, "code that is not torch's cannot be captured"),
        (Custom, "of Sign, an autograd function of your own, only torch operators can be captured"),
        (Device, "leave devices to whoever calls the network|cannot be captured"),
        (Mask, r"a size depends on the values of a tensor .*torch\.where\(mask, x, 0\)"),
        (Unique, "a size depends on the values of a tensor .*nonzero or unique"),
    ],
)
def test_the_line_is_named_and_what_is_usually_done_about_it(kind, said):
    with pytest.raises(pl.PacklightError, match=said) as caught:
        pl.load(kind(), torch.randn(2, 3))
    text = str(caught.value)
    assert "\n" not in text
    file, line = re.search(r"\(at (\S+?):(\d+): ", text).groups()
    assert file == __file__
    mark = "Sign" if kind is Custom else kind.__name__
    assert linecache.getline(file, int(line)).rstrip().endswith(f"# {mark}")


def test_the_parts_that_export_alone_are_named_and_can_be_loaded():
    module = Branch()
    with pytest.raises(pl.PacklightError, match=r"exported alone can be body, head, 100% of the parameters: load\("):
        pl.load(module, torch.randn(2, 3))
    assert pl.load(module.head, torch.randn(2, 8)).layers()


def test_parts_inside_a_part_that_does_not_export_are_found():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.broken = nn.Linear(3, 3), Branch(), Mask()

        def forward(self, x):
            return self.inner(self.first(x)).sum() + len(self.broken(x))

    with pytest.raises(pl.PacklightError, match=r"exported alone can be first, inner\.body, inner\.head"):
        pl.load(Outer(), torch.randn(2, 3))


def test_a_network_without_a_part_that_exports_names_none():
    class Alone(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(pl.PacklightError, match="it branches on the values") as caught:
        pl.load(Alone(), torch.randn(2, 3))
    assert "alone" not in str(caught.value)


def test_a_list_that_the_network_fills_is_told_and_put_back():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.last = [], None

        def forward(self, x):
            self.seen.append(x)
            self.last = x
            return x * 2

    module = Remembers()
    model = pl.load(module, torch.randn(2, 3))
    assert any("'seen', which the network fills when it is called" in n for n in model.notes)
    assert module.seen == []
    assert module.last is None


def test_inspect_says_it_in_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys):
    from packlight.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "halved.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.body = nn.Linear(3, 3)\n\n    def forward(self, x):\n        y = self.body(x)\n"
        "        return y if y.sum() > 0 else -y\n\ndef net():\n    return Net(), torch.randn(2, 3)\n"
    )
    monkeypatch.setattr("sys.argv", ["packlight", "inspect", "halved:net"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "halved.py:11: return y if y.sum() > 0 else -y" in " ".join(said.split())
    assert "exported alone can be body" in " ".join(said.split())
