"""`--input` of the command line: example inputs for files that leave sizes open."""

import json

import pytest
import torch
from torch import nn

from packlight.cli.options import example_inputs
from packlight.errors import PacklightError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def scripted(tmp_path):
    torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))).save(tmp_path / "net.pt")
    return tmp_path / "net.pt"


def test_torchscript_is_inspected_and_converted(scripted, command_line, tmp_path):
    code, _, told = command_line("inspect", scripted)
    assert code == 2
    assert "--input 1x3x224x224" in told
    code, told, _ = command_line("inspect", scripted, "--input", "1x3x8x8", "--json")
    assert code == 0
    assert "[batch, 3, 8, 8]" in json.loads(told)["model"]
    code, _, _ = command_line("convert", scripted, tmp_path / "net.onnx", "--input", "2x3x8x8")
    assert code == 0
    assert (tmp_path / "net.onnx").exists()


def test_a_file_that_says_its_sizes_takes_no_inputs(scripted, command_line, tmp_path):
    command_line("convert", scripted, tmp_path / "net.plm", "--input", "2x3x8x8")
    code, _, told = command_line("inspect", tmp_path / "net.plm", "--input", "1x3x9x9")
    assert code == 2
    assert "says itself what inputs it takes" in told


def test_inputs_are_named_all_or_none():
    assert example_inputs(None) is None
    one, two = example_inputs(["1x3", "2x4:int64"])
    assert one.shape == (1, 3)
    assert one.dtype == torch.float32
    assert two.dtype == torch.int64
    assert set(example_inputs(["ids=1x3:int32", "mask=1x3:bool"])) == {"ids", "mask"}


@pytest.mark.parametrize(
    "given", [["1x3", "a=2"], ["a=2", "a=3"], ["3x"], ["1x3:nn"], ["1x3:quint4x2"], ["0x2"], ["99999x99999x9"], ["a b"]]
)
def test_what_is_no_shape_is_refused(given):
    with pytest.raises(PacklightError, match="--input"):
        example_inputs(given)
