"""OpenVINO's files answer as the Model does, whatever the runtime does by itself; what it lacks is listed."""

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.measure.quality import torch_runner
from packlight.targets import get
from packlight.targets.adapt import adapted
from packlight.testing.examples import inputs_of, models, random_task, worst

openvino = pytest.importorskip("openvino", reason="pip install 'packlight[openvino]'")
TARGET = get("openvino")
ROUNDING = 1e-5  # float32 sums in another order; 8 bits of activations would be 6e-3, bfloat16 3e-3


@pytest.fixture(scope="module")
def linears():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    return pl.load(module.eval(), torch.randn(4, 64))


def opened(model, folder, form="float32"):
    model, _ = adapted(model, TARGET.numerics)
    TARGET.write(model, folder / "net.xml", form, model.dims)
    return model, TARGET.open(folder / "net.xml", 1)


def error(model, session):
    inputs = inputs_of(model, 3)
    return worst(session.run(inputs), torch_runner(model)(*inputs)).error


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": False}, {"group": None}, {"weights": "fp16"}, {"weights": "fp8-e4m3"}], ids=str
)
def test_stored_weights_stay_small_and_activations_stay_float(linears, tmp_path, options):
    model = pl.quantize(linears, random_task(linears), target="openvino", mode="weights", **options)
    assert error(*opened(model, tmp_path)) < ROUNDING
    bytes_a_weight = (tmp_path / "net.bin").stat().st_size / (2 * 64 * 256)
    assert bytes_a_weight < (2.1 if options.get("weights") == "fp16" else 1.3)


def test_half_precision_keeps_constants_that_it_has_not_the_range_for(tmp_path):
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.cat([torch.ones(127), torch.full((1,), 1e6)]))

        def forward(self, x):
            return x * self.weight

    model = pl.load(Large().eval(), torch.randn(2, 128))
    assert error(*opened(model, tmp_path, "float16")) < ROUNDING


def test_one_value_twice_integers_scalars_and_truth_values_come_out_as_declared(tmp_path):
    class Several(nn.Module):
        def forward(self, x, i):
            y = torch.relu(x)
            return y, i + 1, y, x.sum(), i > 2

    model, session = opened(pl.load(Several(), (torch.randn(2, 3), torch.arange(6).reshape(2, 3))), tmp_path)
    inputs = inputs_of(model, 3)
    got = session.run(inputs)
    assert [str(a.dtype) for a in got] == [s.dtype for s in model.outputs]
    for one, other in zip(got, torch_runner(model)(*inputs), strict=True):
        assert one.shape == other.shape
        assert abs(one.astype(float) - other.astype(float)).max() < ROUNDING


def test_converting_sends_no_usage_data(linears, tmp_path, monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")

    def sent(*args, **kwargs):
        raise AssertionError("usage data would be sent")

    monkeypatch.setattr(telemetry.Telemetry, "__new__", sent)
    opened(linears, tmp_path)


def test_operators_that_it_lacks_are_listed(linears, tmp_path, monkeypatch):
    from packlight.targets import onnx_graph

    finish = onnx_graph.finish

    def spoiled(graph, *, float16):
        finish(graph, float16=float16)
        for node in graph.graph:
            if node.op_type == "Relu":
                node.op_type, node.domain = "NoSuchOperator", "nowhere"
        graph.opset_imports["nowhere"] = 1

    monkeypatch.setattr(onnx_graph, "finish", spoiled)
    with pytest.raises(pl.PacklightError, match=r"NoSuchOperator \(1\); use another target"):
        TARGET.write(linears, tmp_path / "net.xml", "float32", linears.dims)


def test_single_operators_are_timed_by_their_layers(tmp_path):
    model, _ = opened(models()[0], tmp_path)
    times = TARGET.profile(tmp_path / "net.xml", 1, inputs_of(model, 2), 0.05)
    assert times.keys() & {model.layer(n) for n in model.nodes}  # an operator bears the name of the last fused into it
    assert all(0 <= t < 1 for t in times.values())
