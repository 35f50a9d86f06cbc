"""Relu and Clip that quantized kernels have no place for: the same numbers, and the kernels are there."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx_ir as ir
import torch
from onnx_builder import Builder, kernels, operators, run
from torch import nn

import packlight as pl
from packlight.measure.parity import check
from packlight.targets.onnx_clamps import clamp_integers, separate_activations
from packlight.targets.onnx_convert import unique_names
from packlight.testing.examples import inputs_of, random_task

ACTIVATIONS = {
    "relu": ("Relu", ()), "clip": ("Clip", (0.0, 6.0)), "clip_low": ("Clip", (-1.0, None)),
    "clip_high": ("Clip", (None, 2.0)),
}  # fmt: skip


def activated(product, activation, quantized_after=False, quantized_before=True, zero_point=0):
    """An activation on a product of quantized values, whose result is read in float or quantized."""
    b = Builder(("batch", 2))
    data = b.quantized(b.x, 0.5, 128) if quantized_before else b.x
    y = b.node(product, [data, b.weight([[1, -2], [3, 4]], (0.5, 1.0), 1)])
    op, bounds = ACTIVATIONS[activation]
    limits = [None if v is None else b.constant(f"bound{i}", np.float32(v)) for i, v in enumerate(bounds)]
    y = b.node(op, [y, *limits], name="act")
    if quantized_after:
        b.quantized(y, 0.125, zero_point)
    else:
        b.node("LayerNormalization", [y, b.constant("gain", np.ones(2, np.float32))])
    b.nodes[-1].outputs[0].shape = ir.Shape(("batch", 2))
    return b.model()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
def test_an_activation_that_stays_float_does_not_keep_its_product_from_int8(product, activation):
    model = activated(product, activation)
    x = np.random.default_rng(0).normal(0, 5, (50, 2)).astype(np.float32)
    before = run(model, x)
    assert not kernels(model) & {"QGemm", "MatMulIntegerToFloat"}  # else this step has lost its reason
    separate_activations(model)
    unique_names(model)
    np.testing.assert_array_equal(run(model, x), before)
    assert kernels(model) & {"QGemm", "MatMulIntegerToFloat"}
    assert next(n.name for n in model.graph if n.op_type in ("Max", "Min")) == "act"


@pytest.mark.parametrize(("before", "after"), [(True, True), (False, False)], ids=["quantized", "float"])
def test_other_activations_stay(before, after):
    model = activated("Gemm", "relu", quantized_before=before, quantized_after=after)
    separate_activations(model)
    assert "Relu" in operators(model)


def test_an_activation_read_quantized_and_in_float_is_separated_too():
    model = activated("Gemm", "relu", quantized_after=True)
    relu = next(n for n in model.graph if n.op_type == "Relu")
    other = ir.node("Add", [relu.outputs[0], model.graph.outputs[0]])
    other.outputs[0].name, other.outputs[0].shape = "z", ir.Shape(("batch", 2))
    other.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(other)
    model.graph.outputs[0] = other.outputs[0]
    separate_activations(model)
    assert "QGemm" in kernels(model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_clamp_within_the_range_of_integers_is_done_on_them(activation):
    model = activated("Gemm", activation, quantized_after=True, zero_point=128)
    x = np.random.default_rng(0).normal(0, 5, (500, 2)).astype(np.float32)
    before = run(model, x)
    clamp_integers(model)
    unique_names(model)
    assert not {"Relu", "Clip"} & set(operators(model))
    np.testing.assert_array_equal(run(model, x), before)
    assert len(np.unique(before)) > 10  # something is left between the ends
    assert kernels(model) & {"QGemm", "MatMulIntegerToFloat"}


def test_a_clamp_that_ends_where_integers_do_is_left_to_the_runtime():
    model = activated("Gemm", "relu", quantized_after=True)
    clamp_integers(model)
    assert "Relu" in operators(model)
    assert "QGemm" in kernels(model)


@pytest.mark.parametrize("change", ["float_before", "read_in_float_too"])
def test_other_clamps_stay_before_the_integers(change):
    model = activated("Gemm", "relu", True, change != "float_before", 128)
    if change != "float_before":
        relu = next(n for n in model.graph if n.op_type == "Relu")
        model.graph.append(ir.node("Add", [relu.outputs[0], model.graph.outputs[0]]))
        model.graph[-1].outputs[0].name = "z"
    clamp_integers(model)
    assert "Relu" in operators(model)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(x + self.inner(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def symmetric():
    """Quantized for runtimes of which one knows only ranges that are symmetric around 0."""
    torch.manual_seed(0)
    model = pl.load(Residual(), torch.randn(2, 3, 8, 8) * 20)
    return pl.quantize(model, random_task(model), target=["onnxruntime", "mnn"])


def test_symmetric_ranges_do_not_keep_convolutions_from_int8(symmetric, tmp_path):
    file = pl.export(symmetric, tmp_path / "net.onnx")
    model = ir.load(file.path)
    assert "Max" in operators(model) and not {"Relu", "Clip"} & set(operators(model))
    assert not kernels(model) & {"FusedConv", "Conv", "Relu", "Clip"}
    assert check(symmetric, file, inputs_of(symmetric, 4)).error < 1e-6


def test_clamped_integers_are_read_back_as_clamps_before_them(symmetric, tmp_path):
    file = pl.export(symmetric, tmp_path / "net.onnx")
    model = pl.load(file.path)
    assert model.is_quantized
    x = symmetric.example_inputs(4)
    torch.testing.assert_close(model(*x), symmetric(*x), atol=1e-6, rtol=0)
    again = ir.load(pl.export(model, tmp_path / "again.onnx").path)
    assert sorted(operators(again)) == sorted(operators(ir.load(file.path)))
