"""Quantized ONNX files come in as quantized Models in the reference form: trained further, and exported again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx_file_builder import node, saved
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import packlight as pl
from packlight.model.operators import packet

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = iter([{"x": floats(8, 1, 8, 8)} for _ in range(4)])

    def get_next(self):
        return next(self.left, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("onnx")
    nodes = [
        node("Conv", "x w b", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("MaxPool", "relu", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "pool sizes", "flat"),
        node("Gemm", "flat head offset", "y", transB=1),
    ]
    constants = {
        "w": floats(4, 1, 3, 3), "b": floats(4), "sizes": np.array([-1, 64]), "head": floats(3, 64) / 8,
        "offset": floats(3),
    }  # fmt: skip
    saved(place / "float.onnx", nodes, {"x": ["n", 1, 8, 8]}, constants)
    return place


def quantized(folder, form, per_channel=True):
    path = folder / f"{form}_{per_channel}.onnx"
    quantize_static(
        folder / "float.onnx", path, Samples(), quant_format=getattr(QuantFormat, form), per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def kinds(model):
    return Counter(packet(n) for n in model.nodes if n.op == "call_function")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_static_int8_file_is_a_quantized_model_with_float_masters(folder, form, per_channel):
    path = quantized(folder, form, per_channel)
    model = pl.load(path)
    found = kinds(model)
    assert model.is_quantized and model.notes == ()  # ONNX Runtime agreed
    assert found["conv2d"] == found["linear"] == 1
    assert found["quantize_per_channel"] == found["dequantize_per_channel"] == 2
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    for q in (n for n in model.nodes if packet(n) == "quantize_per_channel"):
        settings = [model.tensor(a) if isinstance(a, torch.fx.Node) else a for a in q.args]
        integers = q.target(*settings)
        name = str(q.args[0].target)
        wanted = next(v for n, v in stored.items() if n.replace(".", "") == name.replace(".", ""))
        wanted = wanted if wanted.shape == tuple(integers.shape) else wanted.T
        assert np.array_equal(integers.detach().numpy(), wanted), "the integers of the file are kept"


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_static_int8_file_is_trained_on_and_exported_again(folder, tmp_path, form):
    model = pl.load(quantized(folder, form))
    x, y = floats(64, 1, 8, 8), RNG.integers(0, 3, 64)
    task = pl.Task("made", metric="accuracy", train=(x, y), validation=(x, y), test=(x, y))
    tuned = pl.finetune(model, task, options=pl.Fit(epochs=2, learning_rate=0.01, batch=16))
    moved = [n for n, p in tuned.named_parameters() if not torch.equal(p, dict(model.named_parameters())[n])]
    assert len(moved) == 4, "both weights and both biases learn through the quantizers"
    artifact = pl.export(tuned, tmp_path / "again.onnx")
    again = Counter(n.op_type for n in onnx.load(str(artifact.path)).graph.node)
    assert again["Conv"] == again["Gemm"] == 1 and not again["Cast"]
    assert pl.load(artifact.path).is_quantized


def test_a_dynamic_int8_file_has_its_ranges_taken_at_run_time(folder):
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx")
    model = pl.load(folder / "dynamic.onnx")
    found = kinds(model)
    assert found["choose_qparams"] == 2 and found["linear"] == found["conv2d"] == 1 and model.notes == ()
    assert not found["matmul"], "the integer product gave way to the float one between quantizers"


def test_four_bit_weights_in_blocks_are_a_linear_layer_behind_block_quantizers(tmp_path):
    levels = RNG.integers(0, 16, (8, 32)).astype(np.uint8)
    packed = (levels[:, ::2] | levels[:, 1::2] << 4).reshape(8, 2, 8)
    scales = np.abs(floats(8, 2)) + 0.01
    product = node("MatMulNBits", "x packed scales", "y", "com.microsoft", N=8, K=32, bits=4, block_size=16)
    path = saved(tmp_path / "net.onnx", [product], {"x": ["n", 32]}, {"packed": packed, "scales": scales.reshape(-1)})
    model = pl.load(path)
    assert model.notes == () and kinds(model)["quantize_per_channel_group"] == 1
    weight = (levels.astype(np.float32) - 8) * scales.repeat(16, 1)
    x = floats(3, 32)
    assert np.allclose(model(torch.from_numpy(x)).detach().numpy(), x @ weight.T, atol=1e-4)


def test_int4_constants_behind_dequantize_come_in(tmp_path):
    values = RNG.integers(-8, 8, (6, 4))
    integers = onnx.helper.make_tensor("q", onnx.TensorProto.INT4, (6, 4), values.reshape(-1).tolist())
    nodes = [node("DequantizeLinear", "q scale", "w", axis=1), node("MatMul", "x w", "y")]
    path = saved(tmp_path / "net.onnx", nodes, {"x": ["n", 6]}, {"scale": np.abs(floats(4)) + 0.1}, opset=21)
    proto = onnx.load(path)
    proto.graph.initializer.append(integers)
    onnx.save(proto, path)
    model = pl.load(path)
    assert kinds(model)["linear"] == 1 and model.is_quantized and model.notes == ()


FUSED = {
    "Gelu": ([node("Gelu", "x", "y", "com.microsoft")], {}),
    "FastGelu": ([node("FastGelu", "x b", "y", "com.microsoft")], {"b": (6,)}),
    "BiasGelu": ([node("BiasGelu", "x b", "y", "com.microsoft")], {"b": (6,)}),
    "QuickGelu": ([node("QuickGelu", "x", "y", "com.microsoft")], {}),
    "FusedMatMul": ([node("FusedMatMul", "x w", "y", "com.microsoft", transB=1, alpha=0.5)], {"w": (5, 6)}),
    "SkipLayerNormalization": (
        [node("SkipLayerNormalization", "x x g s", "y", "com.microsoft")],
        {"g": (6,), "s": (6,)},
    ),
    "Attention": ([node("Attention", "x w b", "y", "com.microsoft", num_heads=2)], {"w": (6, 18), "b": (18,)}),
    "MultiHeadAttention": ([node("MultiHeadAttention", "x x x", "y", "com.microsoft", num_heads=2)], {}),
}


@pytest.mark.parametrize("name", FUSED)
def test_microsofts_fused_operators_agree_with_onnx_runtime(tmp_path, name):
    nodes, shapes = FUSED[name]
    path = saved(tmp_path / "net.onnx", nodes, {"x": ["n", 4, 6]}, {n: floats(*s) for n, s in shapes.items()})
    assert pl.load(path).notes == ()


def test_embeddings_and_layer_norm_in_one_agree_with_onnx_runtime(tmp_path):
    embed = node(
        "EmbedLayerNormalization", "ids kinds words places types g s", "y lengths", "com.microsoft", epsilon=1e-5
    )
    constants = {"words": floats(20, 6), "places": floats(9, 6), "types": floats(2, 6), "g": floats(6), "s": floats(6)}
    inputs = {"ids": (["n", 5], onnx.TensorProto.INT32), "kinds": (["n", 5], onnx.TensorProto.INT32)}
    assert pl.load(saved(tmp_path / "net.onnx", [embed], inputs, constants)).notes == ()


def test_a_fused_convolution_agrees_with_onnx_runtime(tmp_path):
    fused = node("FusedConv", "x w b", "y", "com.microsoft", activation="Relu", pads=[1, 1, 1, 1])
    path = saved(tmp_path / "net.onnx", [fused], {"x": ["n", 2, 5, 5]}, {"w": floats(3, 2, 3, 3), "b": floats(3)})
    assert pl.load(path).notes == ()
