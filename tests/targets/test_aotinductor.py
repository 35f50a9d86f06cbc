"""AOTInductor's files answer alike from run to run, keep to their kernels, and hold nothing that they do not need."""

import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import MissingRuntime
from packlight.model.operators import packet
from packlight.targets import Runner, export, get
from packlight.targets.aotinductor import keep_from_accumulating
from packlight.testing import TargetContract
from packlight.testing.examples import random_task

compiled = pytest.mark.slow  # ten seconds and more for a small file


@compiled
class TestAotInductor(TargetContract):
    def target(self):
        return get("aotinductor")


class Positions(nn.Module):
    """A quantized linear layer with a parameter of its result's shape added to it, and the input to another's."""

    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Linear(16, 16), nn.Parameter(torch.randn(1, 8, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x):
        y = self.norm(self.embed(x) + self.position)
        return x + self.head(y)


@pytest.fixture(scope="module")
def positions():
    torch.manual_seed(0)
    model = pl.load(Positions().eval(), torch.randn(2, 8, 16), name="positions")
    return pl.quantize(model, random_task(model), target="aotinductor")


@compiled
def test_a_parameter_added_to_a_quantized_linear_layer_is_not_overwritten(positions, tmp_path):
    file = export(positions, tmp_path / "net.pt2", get("aotinductor"))
    inputs = tuple(x.numpy() for x in positions.example_inputs(batch=1))
    (wanted,) = (t.detach().numpy() for t in positions.flat(*positions.example_inputs(batch=1)))
    with Runner(file) as runner:
        answers = [runner(*inputs)[0] for _ in range(4)]
    assert all(np.array_equal(a, answers[0]) for a in answers), "an answer depends on the runs before"
    assert np.linalg.norm(answers[-1] - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_no_addition_is_left_that_could_be_done_in_place_of_a_constant_or_an_input(positions):
    mended = positions.copy()
    keep_from_accumulating(mended)
    assert not [n for n in mended.nodes if packet(n) == "add"]
    (x,) = positions.example_inputs(batch=3)
    assert torch.equal(mended.flat(x)[0], positions.flat(x)[0]), "x - (-c) is x + c to the last bit"


def test_an_addition_of_two_results_stays(tmp_path):
    model = pl.load(nn.Sequential(Twice()), torch.randn(2, 4))
    keep_from_accumulating(model)
    assert [packet(n) for n in model.nodes if n.op == "call_function"] == ["relu", "tanh", "add"]


class Twice(nn.Module):
    def forward(self, x):
        return x.relu() + x.tanh()


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "packlight-has-no-such-compiler")
    with pytest.raises(MissingRuntime, match=r"needs a C\+\+ compiler, g\+\+ or \$CXX; run: apt-get install g\+\+"):
        get("aotinductor").require()


@compiled
def test_a_file_holds_no_sources_symbols_or_names_of_folders(positions, tmp_path):
    file = export(positions, tmp_path / "net.pt2", get("aotinductor"))
    with zipfile.ZipFile(file.path) as package:
        libraries = [n for n in package.namelist() if n.endswith(".so")]
        assert libraries and not [n for n in package.namelist() if n.endswith(".cpp")]
        content = package.read(libraries[0])
    assert b".debug_info" not in content
    assert torch.__file__.rpartition("/")[0].encode() not in content
    assert b"packlight-" not in content
