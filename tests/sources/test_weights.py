"""A factory's module with weights out of a file: each tensor in its place, or one line that says what does not fit."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import packlight as pl

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head, self.tied = nn.Linear(8, 3), nn.Linear(8, 3)
        self.tied.weight = self.head.weight

    def forward(self, x):
        y = self.body(x)
        return self.head(y) + self.tied(y)

def net():
    return Net(), torch.randn(2, 6)
"""


@pytest.fixture
def trained(tmp_path, monkeypatch) -> nn.Module:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("weightless.py").write_text(FACTORY)
    sys.modules.pop("weightless", None)
    import weightless

    torch.manual_seed(5)
    return weightless.net()[0].eval()


def same(module: nn.Module, model: pl.Model) -> None:
    x = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(model(x), module(x))
        with pytest.raises(AssertionError):
            torch.testing.assert_close(model(x) * 1.01, module(x))


def test_safetensors_go_into_the_factorys_module_also_where_tied_weights_are_written_once(trained):
    save_file({n: t for n, t in trained.state_dict().items() if n != "tied.weight"}, "net.safetensors")
    same(trained, pl.load("weightless:net", weights="net.safetensors"))


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "old"])
def test_state_dicts_go_into_the_factorys_module(trained, form):
    held = trained.state_dict()
    made = {"nested": {"state_dict": held, "epoch": 3}, "parallel": {f"module.{n}": t for n, t in held.items()}}
    torch.save(made.get(form, held), "net.pt", _use_new_zipfile_serialization=form != "old")
    same(trained, pl.load("weightless:net", weights="net.pt"))


def test_every_mismatch_is_told_in_one_line(trained):
    held = {n: t.clone() for n, t in trained.state_dict().items()}
    held |= {"head.bias": torch.zeros(4), **{f"extra.{i}": torch.zeros(1) for i in range(5)}}
    del held["body.0.weight"]
    save_file(held, "net.safetensors")
    with pytest.raises(pl.PacklightError) as caught:
        pl.load("weightless:net", weights="net.safetensors")
    assert str(caught.value) == (
        "net.safetensors does not fit Net: 1 missing in it (body.0.weight); 5 unknown to the network (extra.0, "
        "extra.1, extra.2, …); 1 of another shape (head.bias [4] for [3])"
    )


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("pickled-code-ran"),))


def bomb(path: Path) -> None:
    torch.save({"w": Bomb()}, path)


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("net/data.pkl", b"0" * 10_000_000)


def whole_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("net.pt", bomb, "its code is not run; save module.state_dict"),
        ("net.pt", whole_module, "its code is not run; save module.state_dict"),
        ("net.pt", lambda p: p.write_bytes(pickle.dumps(Bomb())), "its code is not run|is no file of torch.save"),
        ("net.pt", compressed, "declares more than the bytes"),
        ("net.pt", lambda p: p.write_bytes(b""), "is no file of torch.save"),
        ("net.pt", lambda p: torch.save([1, 2], p), "holds a list, no state dict"),
        ("net.safetensors", lambda p: p.write_bytes(b"\xff" * 40), "is no safetensors file or is damaged"),
        ("net.npz", lambda p: p.write_bytes(b"x"), r"give a \.safetensors file or a state dict"),
        ("net.pt", lambda p: None, "are no file"),
    ],
)
def test_other_files_are_refused_in_one_line_and_run_nothing(trained, name, write, said):
    write(Path(name))
    with pytest.raises(pl.PacklightError, match=said) as caught:
        pl.load("weightless:net", weights=name)
    assert "\n" not in str(caught.value)
    assert not Path("pickled-code-ran").exists()


def test_weights_go_with_a_factory_only(trained):
    save_file({}, "net.safetensors")
    with pytest.raises(pl.PacklightError, match="weights go with module:factory"):
        pl.load(trained, torch.zeros(2, 6), weights="net.safetensors")


def test_the_command_line_takes_them(trained, capsys, monkeypatch):
    from packlight.cli import main

    save_file({n: t for n, t in trained.state_dict().items() if n != "tied.weight"}, "net.safetensors")
    for command, *rest in (["inspect", "--json"], ["convert", "net.plm"]):
        words = ["packlight", command, "weightless:net", *rest, "--weights", "net.safetensors"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out.split("\nwrote")[0])["model"].startswith("Model Net")
    same(trained, pl.load("net.plm"))
