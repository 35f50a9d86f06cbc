"""Files of weights in floats of one and two bytes, on the real runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import exporter
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx
import onnxruntime

import packlight as pl
from packlight.measure.parity import difference
from packlight.measure.quality import torch_runner
from packlight.targets import Artifact, Runner, export, get

LIMIT = 1e-5  # both compute in float32
ROOT = Path(__file__).parents[2]
TYPES = {"fp8-e4m3": "FLOAT8E4M3FN", "fp8-e5m2": "FLOAT8E5M2", "bf16": "BFLOAT16", "fp16": "FLOAT16"}


class Words(nn.Module):
    """A table, an LSTM and linear layers on three axes, each of which the exporter rearranges."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells = nn.Embedding(200, 48), nn.LSTM(48, 40, batch_first=True)
        self.wide, self.head = nn.Linear(40, 96), nn.Linear(96, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.relu(self.wide(self.cells(self.table(words))[0])).mean(1))


def exported(model: pl.Model, path: Path) -> Artifact:
    return export(model, path, get("onnxruntime"), exporter=exporter())


def opened(path: Path, folder: Path) -> set[str]:
    """Operators that are left when the runtime has opened a file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(folder / "opened.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {n.op_type for n in onnx.load(folder / "opened.onnx").graph.node}


def stored(path: Path) -> dict[str, int]:
    """Type → elements of the constants in a file."""
    found: dict[str, int] = {}
    for constant in onnx.load(path).graph.initializer:
        name = onnx.TensorProto.DataType.Name(constant.data_type)
        found[name] = found.get(name, 0) + int(np.prod(constant.dims))
    return found


NETWORKS = {"lenet5": "benchmarks/networks/lenet5.plm", "resnet20": "packlight/data/resnet20_fashion_mnist.plm"}
CASES = [("lenet5", "fp8-e5m2"), ("lenet5", "bf16"), ("lenet5", "fp16"), ("resnet20", "fp8-e4m3")]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_the_file_computes_what_the_model_does_and_is_a_half_or_a_quarter(network, name, tmp_path):
    model = pl.load(ROOT / NETWORKS[network])
    whole = 4 * sum(t.numel() for t in pl.fold(model).named_tensors().values())
    small = pl.quantize(model, mode="weights", weights=name)
    artifact = exported(small, tmp_path / "small.onnx")
    x = model.example_inputs(seed=1, batch=8)[0].numpy()
    (wanted,) = torch_runner(small)(x)
    with Runner(artifact) as runner:
        (got,) = runner(x)
    assert difference(got, wanted).within(LIMIT)
    assert not difference(got, torch_runner(pl.fold(model))(x)[0]).within(LIMIT)
    wrong = small.copy()
    weight = next(n for n, t in wrong.named_tensors().items() if t.dim() > 1 and not n.endswith("_scale"))
    for part in (weight, f"{weight}_scale") if name.startswith("fp8") else (weight,):
        wrong.set_tensor(part, wrong.named_tensors()[part].detach() * 1.01, trainable=part == weight)
    assert not difference(got, torch_runner(wrong)(x)[0]).within(LIMIT)
    share = 0.25 if name.startswith("fp8") else 0.5
    assert share < artifact.bytes / whole < share + 0.03, "of the float weights alone"
    weights = sum(t.numel() for t in pl.fold(model).named_tensors().values() if t.dim() > 1)
    assert stored(artifact.path)[TYPES[name]] == weights
    assert not opened(artifact.path, tmp_path) & {"Cast", "Mul"}, "nothing is widened at every call"


@pytest.mark.parametrize("name", ["fp8-e4m3", "bf16"])
def test_tables_and_matrices_that_are_rearranged_are_stored_too(tmp_path, name):
    torch.manual_seed(0)
    model = pl.load(Words(), torch.zeros(2, 6, dtype=torch.int64))
    small = pl.quantize(model, mode="weights", weights=name)
    artifact = exported(small, tmp_path / "small.onnx")
    words = np.random.default_rng(0).integers(0, 200, (5, 6))
    with Runner(artifact) as runner:
        assert difference(runner(words)[0], torch_runner(small)(words)[0]).within(LIMIT)
    weights = sum(t.numel() for t in model.named_tensors().values() if t.dim() > 1)
    assert stored(artifact.path)[TYPES[name]] == weights
