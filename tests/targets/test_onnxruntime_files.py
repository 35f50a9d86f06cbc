"""What stands in the files for ONNX Runtime: the user's names, small storage, and what its int8 kernels need."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty import SpyingOnnxRuntime
from small_networks import exporter, made, quantized
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.networks import mobilenet_v2, resnet20
from packlight.targets import Artifact, Runner, Target, export, onnxruntime
from packlight.targets.onnxruntime import OnnxRuntime

onnx = pytest.importorskip("onnx", reason="pip install 'packlight[onnxruntime]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "ConvInteger", "MatMulInteger"}


def proto(artifact: Artifact):
    model = onnx.load(artifact.path)
    onnx.checker.check_model(model, full_check=True)
    return model


def sizes(value) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def optimised(path: Path, folder: Path) -> Counter[str]:
    """How often ONNX Runtime runs each kernel, after its own optimisation."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def constants(artifact: Artifact) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in proto(artifact).graph.initializer}


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_inputs_outputs_and_dimensions_are_called_what_the_user_calls_them(files, form):
    graph = proto(files("residual", form)[1]).graph
    assert [(v.name, sizes(v)) for v in graph.input] == [("x", ["batch", 3, 8, 8])]
    assert [(v.name, sizes(v)) for v in graph.output] == [("output", ["batch", 4])]


def test_several_inputs_and_nested_outputs_keep_their_names(files):
    graph = proto(files("multi_input", "float32")[1]).graph
    assert [v.name for v in graph.input] == ["left", "right", "numbers"]
    assert [v.name for v in graph.output] == ["scores", "parts.0", "parts.1.0", "extra.numbers"]
    assert {sizes(v)[0] for v in (*graph.input, *graph.output)} == {"batch"}


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_operators_bear_the_names_of_the_layers_that_they_compute(files, form):
    model, artifact = files("residual", form)
    named = {node.op_type: set() for node in proto(artifact).graph.node}
    for node in proto(artifact).graph.node:
        named[node.op_type].add(node.name)
    assert named["Conv"] == {"stem.0", "body.0.conv2d", "body.0.conv2d_1", "wide.0", "down"}
    assert named["Gemm"] == {"head"}
    assert named["Conv"] | named["Gemm"] | named["Add"] <= set(model.layers())


def test_every_operator_of_a_transformer_belongs_to_a_layer(files):
    model, artifact = files("encoder", "int8")
    nodes = proto(artifact).graph.node
    assert len({n.name for n in nodes}) == len(nodes)
    products = [n.name for n in nodes if n.op_type == "MatMul"]
    assert {"qkv/MatMul", "mlp.2/MatMul"} <= set(products)
    assert {name.split("/")[0] for name in products} <= set(model.layers())


def test_every_convolution_and_residual_addition_runs_in_int8(files, tmp_path):
    artifact = files("residual", "int8")[1]
    convolutions = sum(n.op_type == "Conv" for n in proto(artifact).graph.node)
    ran = optimised(artifact.path, tmp_path)
    assert ran["QLinearConv"] == convolutions == 5
    assert ran["QLinearAdd"] == 3
    assert ran["QGemm"] == 1
    assert not FLOAT_KERNELS & set(ran)


def test_every_linear_layer_of_a_transformer_runs_in_int8(files, tmp_path):
    ran = optimised(files("encoder", "int8")[1].path, tmp_path)
    assert (ran["MatMulIntegerToFloat"], ran["QGemm"]) == (4, 1)
    assert not {"Conv", "Gemm", "FusedGemm", "DynamicQuantizeMatMul", "MatMulNBits"} & set(ran)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape", "additions"), [(resnet20, (1, 28, 28), 9), (mobilenet_v2, (3, 64, 64), 10)])
def test_the_reference_networks_run_in_int8_throughout(make, shape, additions, tmp_path):
    torch.manual_seed(0)
    model = pl.load(make(), torch.zeros(2, *shape))
    data = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    small = pl.quantize(model, pl.Task("random", calibration=data))
    artifact = pl.export(small, tmp_path / "net.onnx")
    convolutions = sum(node.op_type == "Conv" for node in proto(artifact).graph.node)
    ran = optimised(artifact.path, tmp_path)
    assert (ran["QLinearConv"], ran["QLinearAdd"], ran["QGemm"]) == (convolutions, additions, 1)
    assert not FLOAT_KERNELS & set(ran)
    assert ran["QLinearGlobalAveragePool"] == 1


@pytest.mark.parametrize("name", ["residual", "encoder"])
def test_weights_are_stored_in_int8_and_biases_in_int32(files, name):
    model, artifact = files(name, "int8")
    stored = constants(artifact)
    integers = {n: c for n, c in stored.items() if c.dtype == np.int8 and c.ndim > 1}
    kernels = {n.removesuffix("_scale") + "_integer" for n in model.named_tensors() if n.endswith("_scale")}
    assert integers.keys() <= kernels
    assert kernels - integers.keys() <= {"body.0.weight_integer"}  # used twice: equal integers are stored once
    assert max(np.abs(c.astype(int)).max() for c in integers.values()) == 127
    assert stored["head.bias_integer"].dtype == np.int32
    weights = [c.size for n, c in stored.items() if c.dtype == np.float32 and c.ndim > 1 and not n.startswith("val")]
    kept_float = {"encoder": 5 * 16, "residual": 0}  # position embedding
    assert sum(weights) == kept_float[name]


def test_float16_halves_the_weights_and_int8_quarters_them(tmp_path):
    torch.manual_seed(0)
    model = pl.load(nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)), torch.zeros(2, 256))
    data = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    small = pl.quantize(model, pl.Task("random", calibration=data))
    size = {}
    for name, source, form in (("f16", model, "float16"), ("i8", small, "float32")):
        path = tmp_path / f"{name}.onnx"
        size[name] = export(source, path, OnnxRuntime(), form=form, exporter=exporter()).bytes
    weights = 4 * (2 * 256 * 256 + 2 * 256)
    assert weights / 2 < size["f16"] < weights / 2 + 2_000
    assert weights / 4 < size["i8"] < weights / 4 + 8_000  # scales, zero points and int32 biases: 5,120 bytes


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_nothing_of_the_exporter_is_left_in_the_file(files, form):
    model = proto(files("residual", form)[1])
    assert (model.producer_name, model.producer_version, model.doc_string) == ("packlight", "", "")
    assert not model.metadata_props and not model.functions and not model.graph.value_info
    for thing in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        assert not thing.doc_string and not thing.metadata_props
    content = files("residual", form)[1].path.read_bytes()
    for trace in (b"torch", b"pkg.", b"Traceback", b"/site-packages/", os.fsencode(Path(__file__).name)):
        assert trace not in content


def test_a_file_beyond_two_gigabytes_is_refused_before_conversion(monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime, "_MAX_BYTES", 1000)
    monkeypatch.setattr("packlight.targets.onnx_convert.convert", None)
    with pytest.raises(PacklightError, match=r"^residual takes 0.0 GB as ONNX, one file holds 0.0 GB$"):
        OnnxRuntime().write(made("residual"), tmp_path / "net.onnx", "float32", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "form"), [(quantized, "float32"), (made, "float16")], ids=["int8", "float16"])
def test_weights_count_as_what_they_take_in_the_file(monkeypatch, tmp_path, model, form):
    def reached(model):
        raise InterruptedError

    floats = sum(t.nbytes for t in made("residual").named_tensors().values())
    monkeypatch.setattr(onnxruntime, "_MAX_BYTES", int(0.6 * floats))
    monkeypatch.setattr("packlight.targets.onnx_convert.convert", reached)
    with pytest.raises(InterruptedError):
        OnnxRuntime().write(model("residual"), tmp_path / "net.onnx", form, {})


def test_a_child_that_only_runs_a_file_does_not_import_torch(files):
    artifact = files("residual", "float32")[1]
    spied = Artifact(artifact.path, SpyingOnnxRuntime(), artifact.manifest)
    with Runner(spied) as runner:
        *_, torch_is_there = runner(np.zeros((1, 3, 8, 8), np.float32))
    assert not torch_is_there


def test_the_target_declares_without_importing_its_runtime():
    import subprocess
    import sys

    heavy = "torch onnx onnx_ir onnxscript onnxruntime psutil"
    code = f"import sys, packlight.targets.onnxruntime; print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_versions_are_stated(files):
    versions = files("residual", "float32")[1].manifest["versions"]
    assert versions["onnxruntime"] == ort.__version__
    assert isinstance(OnnxRuntime(), Target)


def test_a_file_that_is_not_onnx_is_one_line(tmp_path, files):
    artifact = files("residual", "float32")[1]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(artifact.path.read_bytes()[:2000])
    from packlight.files import sha256

    facts = {"files": {broken.name: {"bytes": 2000, "sha256": sha256(broken)}}}
    with pytest.raises(PacklightError, match=r"^onnxruntime: open failed: ") as caught:
        Runner(Artifact(broken, OnnxRuntime(), {**artifact.manifest, **facts}))
    assert "\n" not in str(caught.value)
