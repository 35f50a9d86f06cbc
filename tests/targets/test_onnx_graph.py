"""Each step on a graph of a few operators, with numbers that can be checked on paper."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx_ir as ir
from onnx_builder import Builder, operators, run

from packlight.targets.onnx_graph import (
    coarser,
    drop_defaults,
    fits_float16,
    pool_globally,
    quantize_biases,
    rounded_bias,
    store_float16,
    strip,
    transpose_constants,
)


def pooled(axes, keepdims=1, shape=(1, 2, 2, 2)):
    b = Builder(shape)
    b.node("ReduceMean", [b.x, b.constant("axes", np.array(axes, np.int64))], attributes={"keepdims": keepdims})
    return b.model()


@pytest.mark.parametrize(
    ("axes", "shape"),
    [((2, 3), (1, 2, 2, 2)), ((-1, -2), (1, 2, 2, 2)), ((2,), (1, 2, 4)), ((2, 3, 4), (1, 2, 2, 1, 2))],
    ids=["2d", "from_the_end", "1d", "3d"],
)
def test_a_mean_over_all_of_space_becomes_global_pooling(axes, shape):
    model = pooled(axes, shape=shape)
    x = np.arange(8, dtype=np.float32).reshape(shape)
    before = run(model, x)
    pool_globally(model)
    assert operators(model) == ["GlobalAveragePool"]
    np.testing.assert_array_equal(run(model, x), before)
    np.testing.assert_array_equal(before.reshape(2), [1.5, 5.5])


@pytest.mark.parametrize(
    "model",
    [pooled((2, 3), keepdims=0), pooled((2,)), pooled((1, 2, 3)), pooled((0, 1)), pooled((1,), shape=(2, 4))],
    ids=["axes_dropped", "one_of_two_axes", "channels_too", "batch_and_channels", "no_space"],
)
def test_other_means_stay(model):
    pool_globally(model)
    assert operators(model) == ["ReduceMean"]


def test_a_mean_over_computed_axes_stays():
    b = Builder((2,), ir.DataType.INT64)
    data = b.constant("data", np.ones((1, 2, 2, 2), np.float32))
    b.node("ReduceMean", [data, b.x])
    model = b.model()
    pool_globally(model)
    assert operators(model) == ["ReduceMean"]


def matmul(perm=(1, 0), axis=0, scale=(0.5, 2.0, 1.0)):
    """y = x · Wᵀ, W [3, 2] in integers with one scale an output, as a 3-D linear layer is exported."""
    b = Builder((1, 2))
    weight = b.weight([[1, 2], [3, 4], [5, 6]], scale, axis)
    attributes = None if perm is None else {"perm": perm}
    b.node("MatMul", [b.x, b.node("Transpose", [weight], attributes=attributes)])
    return b.model()


@pytest.mark.parametrize("perm", [(1, 0), None], ids=["permutation", "default_permutation"])
def test_a_transposed_constant_is_stored_transposed_with_its_scale_axis_moved(perm):
    model = matmul(perm)
    x = np.array([[1, 10]], np.float32)
    np.testing.assert_array_equal(run(model, x), [[10.5, 86, 65]])
    transpose_constants(model)
    assert operators(model) == ["DequantizeLinear", "MatMul"]
    dequantize = model.graph[0]
    assert dequantize.attributes["axis"].as_int() == 1
    np.testing.assert_array_equal(dequantize.inputs[0].const_value.numpy(), [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(run(model, x), [[10.5, 86, 65]])


def test_an_axis_counted_from_the_end_moves_too():
    model = matmul(axis=-1, scale=(0.5, 2.0))
    x = np.array([[1, 10]], np.float32)
    before = run(model, x)
    transpose_constants(model)
    assert model.graph[0].attributes["axis"].as_int() == 0
    np.testing.assert_array_equal(run(model, x), before)


def test_a_constant_that_others_read_untransposed_stays():
    b = Builder((1, 2))
    weight = b.weight([[1, 2], [3, 4]], (1.0, 1.0), 0)
    straight = b.node("MatMul", [b.x, weight])
    b.node("MatMul", [straight, b.node("Transpose", [weight], attributes={"perm": (1, 0)})])
    model = b.model()
    x = np.array([[1, 10]], np.float32)
    before = run(model, x)
    transpose_constants(model)
    assert "Transpose" in operators(model)
    np.testing.assert_array_equal(run(model, x), before)


@pytest.mark.parametrize(
    ("bias", "scale", "stored"),
    [(1.0, 0.5, 2), (1.2, 0.5, 2), (-1.3, 0.5, -3), (0.25, 0.5, 0), (0.75, 0.5, 2), (3e9, 1.0, 2**31 - 1),
     (-3e9, 1.0, -(2**31)), (1e30, 1e-12, 2**31 - 1)],
    ids=["exact", "down", "away_from_zero", "half_to_even_down", "half_to_even_up", "too_large", "too_small", "absurd"],
)  # fmt: skip
def test_a_bias_is_rounded_to_the_accumulators_units_and_clipped(bias, scale, stored):
    got = rounded_bias(np.array([bias], np.float32), np.array([scale], np.float32))
    assert got.dtype == np.int32
    assert got.tolist() == [stored]


def test_a_rounded_bias_is_at_most_half_a_step_off():
    rng = np.random.default_rng(0)
    bias, scale = rng.normal(size=1000), rng.uniform(1e-4, 1e-2, 1000)
    assert np.all(np.abs(rounded_bias(bias, scale) * scale - bias) <= scale / 2 * (1 + 1e-9))


def convolution(bias, weight_scale=(0.25, 1.0), input_scale=0.5):
    """A 1×1 convolution of two channels to two on quantized input, weights [[1, 2], [3, 4]] in integers."""
    b = Builder((1, 2, 1, 1))
    data = b.quantized(b.x, input_scale)
    weight = b.weight(np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1), weight_scale, 0)
    b.node("Conv", [data, weight, b.constant("b", np.array(bias, np.float32))], name="conv")
    return b.model()


def stored_bias(model):
    conv = next(n for n in model.graph if n.op_type == "Conv")
    return [i.const_value.numpy() for i in conv.inputs[2].producer().inputs]


def test_a_bias_is_stored_in_units_of_input_scale_times_weight_scale():
    model = convolution([1.0, -1.75])
    x = np.array([3, 4], np.float32).reshape(1, 2, 1, 1)
    quantize_biases(model)
    integers, scale = stored_bias(model)
    assert (integers.dtype, integers.tolist(), scale.tolist()) == (np.int32, [8, -4], [0.125, 0.5])
    # 0.25·(3 + 2·4) + 1 and 3·3 + 4·4 − 2, the second bias rounded from −1.75 to the nearest half
    np.testing.assert_allclose(run(model, x).reshape(2), [3.75, 23.0], rtol=1e-6)


def test_a_bias_beyond_int32_gets_a_coarser_weight_scale():
    """A batch norm with γ = 0 leaves weights of zero, whose scale is tiny, and a bias that is the whole output."""
    model = convolution([0.5, -1.75], weight_scale=(1e-12, 1.0))
    quantize_biases(model)
    integers, scale = stored_bias(model)
    np.testing.assert_allclose(integers * scale, [0.5, -2.0], rtol=1e-6)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    weights, scales = (i.const_value.numpy() for i in conv.inputs[1].producer().inputs[:2])
    np.testing.assert_allclose(scales, [2**-30, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(weights.reshape(2, 2), [[0, 0], [3, 4]])
    x = np.array([3, 4], np.float32).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(run(model, x).reshape(2), [0.5, 23.0], rtol=1e-6)


def test_a_coarser_scale_is_no_coarser_than_needed():
    bias, scale = np.array([1.0, 2**31, 0.0]), np.array([1.0, 1.0, 1e-12], np.float32)
    np.testing.assert_array_equal(coarser(scale, bias, 0.5), np.array([1.0, 4.0, 1e-12], np.float32))
    assert coarser(np.float32(1.0), bias, 0.5) == 4.0


@pytest.mark.parametrize("quantized", [(False, True), (True, False)], ids=["float_input", "float_weight"])
def test_the_bias_of_a_float_operator_stays_float(quantized):
    b = Builder((1, 2, 1, 1))
    data = b.quantized(b.x, 0.5) if quantized[0] else b.x
    shape = (2, 2, 1, 1)
    weight = b.weight(np.ones(shape), (1, 1), 0) if quantized[1] else b.constant("w", np.ones(shape, np.float32))
    b.node("Conv", [data, weight, b.constant("b", np.ones(2, np.float32))])
    model = b.model()
    quantize_biases(model)
    assert "b" in [v.name for v in model.graph[-1].inputs]


def test_single_scales_lose_their_axis_and_others_keep_it():
    b = Builder((1, 2))
    b.quantized(b.x, 0.5)
    for node in b.nodes:
        node.attributes["axis"] = ir.AttrInt64("axis", 1)
    b.node("MatMul", [b.nodes[-1].outputs[0], b.weight([[1, 2], [3, 4]], (1, 1), 1)])
    model = b.model()
    drop_defaults(model)
    axes = [node.attributes.get_int("axis", None) for node in model.graph if "Linear" in node.op_type]
    assert axes == [None, None, 1]


def added(content, op="Add"):
    b = Builder((1,))
    b.node(op, [b.x, b.constant("c", content)])
    return b.model()


def test_large_constants_are_stored_as_float16_and_computed_with_in_float32():
    content = np.linspace(-1, 1, 256, dtype=np.float32)
    model = added(content)
    store_float16(model)
    strip(model)
    assert operators(model) == ["Cast", "Add"]
    assert [v.const_value.nbytes for v in model.graph.initializers.values()] == [512]
    got = run(model, np.zeros(1, np.float32))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, content.astype(np.float16).astype(np.float32))


NOT_HALVED = {
    "few": np.ones(63, np.float32),
    "too_large": np.array([7e4] + [1.0] * 255, np.float32),
    "infinite": np.array([-np.inf] + [1.0] * 255, np.float32),
    "too_small": np.linspace(1e-7, 1e-6, 256, dtype=np.float32),
    "integers": np.arange(256).astype(np.int64),
}


@pytest.mark.parametrize("content", NOT_HALVED.values(), ids=NOT_HALVED)
def test_constants_that_float16_would_spoil_or_not_shrink_stay(content):
    b = Builder((1,), ir.DataType.from_numpy(content.dtype))
    b.node("Add", [b.x, b.constant("c", content)])
    b.nodes[-1].outputs[0].type = b.x.type
    model = b.model()
    store_float16(model)
    assert operators(model) == ["Add"]


def test_quantization_scales_stay_float32():
    b = Builder((1, 64))
    b.node("MatMul", [b.x, b.weight(np.ones((64, 64)), np.full(64, 0.1), 1)])
    model = b.model()
    store_float16(model)
    assert operators(model) == ["DequantizeLinear", "MatMul"]


def test_float16_costs_less_than_its_limit_on_ordinary_weights():
    content = np.random.default_rng(0).normal(0, 0.02, 4096).astype(np.float32)
    halved = fits_float16(content)
    assert np.linalg.norm(halved - content) < 5e-4 * np.linalg.norm(content)
    assert fits_float16(np.zeros(100, np.float32)) is not None


def test_stripping_leaves_nothing_of_the_exporter_and_shares_equal_constants():
    b = Builder((4,))
    first = b.node("Add", [b.x, b.constant("one", np.ones(4, np.float32))], shape=(4,))
    b.constant("unused", np.ones(1000, np.float32))
    b.node("Mul", [first, b.constant("two", np.ones(4, np.float32))], shape=(4,))
    model = b.model()
    model.producer_name, model.doc_string, model.metadata_props["k"] = "pytorch", "text", "v"
    for thing in (model.graph, *model.graph, *model.graph.inputs, *(o for n in model.graph for o in n.outputs)):
        thing.doc_string, thing.metadata_props["stack"] = "text", "File ..."
    strip(model)
    proto = ir.serde.serialize_model(model)
    assert (proto.producer_name, proto.doc_string, len(proto.metadata_props)) == ("packlight", "", 0)
    assert b"File ..." not in proto.SerializeToString() and b"text" not in proto.SerializeToString()
    assert len(proto.graph.initializer) == 1
    assert not proto.graph.value_info
