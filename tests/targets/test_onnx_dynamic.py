"""Files with ranges taken at run time, and with tables stored as integers, on the real runtime."""

import numpy as np
import pytest
import torch
from small_networks import exporter
from torch import nn

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx

import packlight as pl
from packlight.measure.parity import check, difference
from packlight.measure.quality import torch_runner
from packlight.targets import Artifact, Runner, export, get

# A value that lies between two steps is rounded either way; a weight that is 1 % off shows as a gain of 1 %.
LIMIT = 5e-3


class Mixed(nn.Module):
    """Ids to scores through a table, a recurrent layer, a linear layer on tokens and one on vectors."""

    def __init__(self, cell: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.words, self.segments = nn.Embedding(300, 16, padding_idx=0), nn.Embedding(2, 16)
        self.cell = cell(16, 16, batch_first=True, bidirectional=True)
        self.wide, self.bare, self.head = nn.Linear(32, 24), nn.Linear(32, 24, bias=False), nn.Linear(24, 5)
        with torch.no_grad():
            self.head.bias.mul_(0.1)  # else the answers are mostly bias, and a wrong weight hardly shows

    def forward(self, ids, kinds):
        x = self.cell(self.words(ids) + self.segments(kinds))[0]
        return self.head((self.wide(x).relu() + self.bare(x)).mean(1))


CASES = [pytest.param(nn.LSTM, "dynamic", id="lstm-dynamic")] + [
    pytest.param(cell, mode, id=f"{cell.__name__.lower()}-{mode}", marks=pytest.mark.slow)
    for cell, mode in ((nn.LSTM, "static"), (nn.GRU, "dynamic"), (nn.GRU, "static"))
]
FREE = {name: {0: "batch", 1: "length"} for name in ("ids", "kinds")}


def inputs(batch: int, length: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(batch)
    return random.integers(0, 300, (batch, length)), random.integers(0, 2, (batch, length))


def files(folder, cell, mode: str) -> tuple[pl.Model, Artifact]:
    torch.manual_seed(0)
    model = pl.load(Mixed(cell).eval(), tuple(map(torch.from_numpy, inputs(3, 7))), dynamic=FREE)
    small = pl.quantize(model, pl.Task("random", calibration=pl.task.ArrayData(inputs(32, 7))), mode=mode)
    return small, export(small, folder / "small.onnx", get("onnxruntime"), exporter=exporter())


@pytest.mark.parametrize(("cell", "mode"), CASES)
def test_the_file_computes_what_the_model_computes(tmp_path, cell, mode):
    small, artifact = files(tmp_path, cell, mode)
    wrong = {}
    for name in ("words.weight", "wide.weight"):
        wrong[name] = small.copy()
        for part in (name, f"{name}_scale"):
            wrong[name].set_tensor(part, small.named_tensors()[part].detach() * 1.05)
    with Runner(artifact) as runner:
        for batch, length in ((1, 1), (4, 9)):
            (got,), (want,) = runner(*inputs(batch, length)), torch_runner(small)(*inputs(batch, length))
            assert difference(got, want).within(LIMIT), difference(got, want)
        (got,) = runner(*inputs(32, 7))
    for name, other in wrong.items():
        assert not difference(got, torch_runner(other)(*inputs(32, 7))[0]).within(LIMIT), name
    assert check(small, artifact, inputs(8, 7)).ok

    graph = onnx.load(tmp_path / "small.onnx").graph
    tables = {t.name: t for t in graph.initializer}
    rows = [n for n in graph.node if n.op_type == "Gather" and n.input[0] == "words.weight_integer"]
    assert rows and tables["words.weight_integer"].data_type == onnx.TensorProto.INT8
    assert not [n for n in graph.node if n.op_type == "DequantizeLinear" and "words" in n.input[0]]
    largest = max(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert largest <= 300, "no table and no matrix is in the file as float"
    kernels = [n.op_type for n in graph.node]
    assert kernels.count("MatMulInteger") == (3 if mode == "dynamic" else 0)
    assert kernels.count("DynamicQuantizeLinear") == (2 if mode == "dynamic" else 0)


def test_a_layer_that_is_wrong_in_the_file_is_found(tmp_path):
    small, _ = files(tmp_path, nn.LSTM, "dynamic")
    network = onnx.load(tmp_path / "small.onnx")
    factors = {name for n in network.graph.node if n.op_type == "Mul" for name in n.input}
    (scale,) = [t for t in network.graph.initializer if t.name in factors and list(t.dims) == [5]]
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.01), scale.name))
    onnx.save(network, tmp_path / "wrong.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "wrong.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs(32, 7), strict=True)))[0]
    assert not difference(got, torch_runner(small)(*inputs(32, 7))[0]).within(LIMIT)
