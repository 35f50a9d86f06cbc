"""The .plm file: what is saved comes back, and a failed save leaves nothing behind."""

from __future__ import annotations

import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from captures import call, captured, flat
from torch import nn
from zoo import ZOO

from packlight.errors import PacklightError
from packlight.model import Model, Step
from packlight.sources import from_module

every_network = pytest.mark.parametrize("name", ZOO)


@every_network
def test_a_loaded_model_is_the_saved_one(name, tmp_path):
    c = captured(name)
    back = Model.load(c.model.save(tmp_path / "m.plm"))
    with torch.no_grad():
        pairs = zip(flat(call(back, c.example)), flat(call(c.model, c.example)), strict=True)
    assert all(a.equal(b) for a, b in pairs)
    for attribute in ("inputs", "outputs", "structure", "dims", "limits", "name", "notes", "lineage", "training"):
        assert getattr(back, attribute) == getattr(c.model, attribute)
    assert list(back.layers()) == list(c.model.layers())
    assert [n.meta.get("modes") for n in back.nodes] == [n.meta.get("modes") for n in c.model.nodes]
    mine = {n: (p.shape, p.requires_grad) for n, p in c.model.named_parameters()}
    assert {n: (p.shape, p.requires_grad) for n, p in back.named_parameters()} == mine


@every_network
def test_saving_what_was_loaded_gives_the_same_bytes(name, tmp_path):
    first = captured(name).model.save(tmp_path / "a.plm")
    second = Model.load(first).save(tmp_path / "b.plm")
    assert first.read_bytes() == second.read_bytes()


def test_a_loaded_model_trains(tmp_path):
    c = captured("cnn")
    x = torch.randn(4, 3, 8, 8)
    results = []
    for model in (c.model.copy(), Model.load(c.model.save(tmp_path / "m.plm"))):
        torch.manual_seed(3)
        model.train()(x).square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    assert all(g.equal(results[1][n]) for n, g in results[0].items())


def test_a_model_saved_in_training_mode_comes_back_in_it(tmp_path):
    model = captured("cnn").model.copy().train()
    back = Model.load(model.save(tmp_path / "m.plm"))
    assert model.training
    assert back.training
    assert back.graph_module.code == model.graph_module.code


def test_lineage_and_its_options_come_back(tmp_path):
    step = Step("prune", 3, {"keep": 0.5, "exclude": ["a.*"], "seed": None})
    model = captured("mlp").model.copy().with_step(step)
    assert Model.load(model.save(tmp_path / "m.plm")).lineage[-1] == step


def test_limits_come_back(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[0] > 2 else x

    back = Model.load(from_module(Net(), torch.ones(4, 3)).save(tmp_path / "m.plm"))
    with pytest.raises(PacklightError, match="takes 3 and more"):
        back(torch.ones(1, 3))


def test_tensors_that_share_memory_are_saved_each(tmp_path):
    model = captured("mlp").model.copy()
    table = torch.arange(6.0)
    model.set_tensor("whole", table)
    model.set_tensor("part", table[2:4])
    model.set_tensor("turned", table.view(2, 3).t())
    graph = model.graph_module.graph
    with graph.inserting_before(graph.output_node()):
        nodes = [graph.get_attr(n) for n in ("whole", "part", "turned")]
    graph.output_node().args = (tuple(nodes),)
    model.outputs = tuple(type(model.outputs[0])(n, "float32", s) for n, s in (("a", (6,)), ("b", (2,)), ("c", (3, 2))))
    model.structure = {"tuple": [0, 1, 2]}
    model.tidy()
    back = Model.load(model.save(tmp_path / "m.plm"))
    assert back.named_tensors()["turned"].equal(table.view(2, 3).t())
    assert len({t.untyped_storage().data_ptr() for t in back.named_tensors().values()}) == 3


def test_a_loaded_model_does_not_hang_on_to_its_file(tmp_path):
    path = captured("mlp").model.save(tmp_path / "m.plm")
    model = Model.load(path)
    before = model(torch.ones(1, 12))
    with open(path, "r+b") as file:
        file.truncate(10)
    assert model(torch.ones(1, 12)).equal(before)


def test_control_characters_in_names_are_not_printed(tmp_path):
    model = captured("mlp").model.copy()
    model.name = "net\x1b[31m\n"
    assert Model.load(model.save(tmp_path / "m.plm")).name == "net?[31m?"


# saving that fails


@contextmanager
def files_of_at_most(size: int):
    """A disk with room for files of this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = captured("mlp").model.save(tmp_path / "m.plm")
    before = path.read_bytes()
    with files_of_at_most(500), pytest.raises(PacklightError, match=f"cannot write {path}"):
        captured("cnn").model.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.plm"]


def test_an_operator_that_cannot_be_written_leaves_the_old_file(tmp_path):
    model = captured("mlp").model.copy()
    path = model.save(tmp_path / "m.plm")
    before = path.read_bytes()
    next(n for n in model.nodes if n.op == "call_function").target = torch.ops.aten.relu_.default
    with pytest.raises(PacklightError, match="not in packlight's operator table"):
        model.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "where", ["missing/m.plm", "file/m.plm", "folder"], ids=["missing folder", "file as folder", "folder"]
)
def test_a_path_that_cannot_be_written_is_one_line(where, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PacklightError, match="cannot write") as error:
        captured("mlp").model.save(tmp_path / where)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="root may write anywhere else")
def test_a_read_only_folder_is_one_line():
    with pytest.raises(PacklightError, match=r"cannot write /proc/m\.plm"):
        captured("mlp").model.save("/proc/m.plm")


# loading that fails


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(PacklightError, match=f"no file {tmp_path / 'm.plm'}"):
        Model.load(tmp_path / "m.plm")
    with pytest.raises(PacklightError, match="no file"):
        Model.load(tmp_path)


def test_another_safetensors_file_is_told_apart(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, tmp_path / "m.plm")
    with pytest.raises(PacklightError, match="a safetensors file without a packlight graph"):
        Model.load(tmp_path / "m.plm")


@pytest.mark.parametrize("where", [Path("m.plm"), "m.plm"], ids=["path", "str"])
def test_paths_may_be_text(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Model.load(captured("mlp").model.save(where)).name == "Sequential"
