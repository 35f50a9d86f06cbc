"""Core ML files read back without macOS: names, shapes, operators, and the weights against the Model's."""

import logging
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.doctor import _try, inventory
from packlight.model.integers import freeze
from packlight.targets import get, installed
from packlight.testing.examples import models, random_task


@pytest.fixture(autouse=True)
def coreml():
    try:
        get("coreml").require()
    except pl.PacklightError as missing:
        pytest.skip(str(missing))
    logging.getLogger("coremltools").setLevel(logging.ERROR)


def exported(model, folder, **options):
    return pl.export(model, folder / "net.zip", target="coreml", **options)


def read_back(artifact, folder):
    """The description of a file and its operators: name → operator."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    with zipfile.ZipFile(artifact.path) as archive:
        archive.extractall(folder / "unpacked")
    made = MLModel(str(folder / "unpacked" / "network.mlpackage"), skip_model_load=True)
    spec = made.get_spec()
    program = load(spec, spec.specificationVersion, made.weights_dir)
    return spec.description, list(program.functions["main"].operations)


def weights(operations, kind):
    return [op for op in operations if op.op_type == kind]


def layer_weights(model):
    return [t.detach().numpy() for n, t in model.named_tensors().items() if t.dim() > 1 and t.is_floating_point()]


def holds(operations, wanted):
    found = [op.outputs[0].val for op in operations if op.op_type == "const" and op.outputs[0].val is not None]
    return any(isinstance(v, np.ndarray) and v.shape == wanted.shape and np.array_equal(v, wanted) for v in found)


def test_ends_bear_the_users_names_and_shapes(tmp_path):
    model = models()[1]
    description, _ = read_back(exported(model, tmp_path), tmp_path)
    ends = {f.name: list(f.type.multiArrayType.shape) for f in (*description.input, *description.output)}
    assert ends == {"tokens": [1, 5, 8], "mask": [1, 5], "logits": [1, 3], "states": [1, 5, 8]}


def test_float_weights_are_the_models(tmp_path):
    model = models()[1]
    _, operations = read_back(exported(model, tmp_path), tmp_path)
    for wanted in layer_weights(model):
        assert holds(operations, wanted)
        assert not holds(operations, wanted * np.float32(1.01))


def test_float16_computes_in_float16(tmp_path):
    model = models()[1]
    _, operations = read_back(exported(model, tmp_path, form="float16"), tmp_path)
    for wanted in layer_weights(model):
        assert holds(operations, wanted.astype(np.float16))


def test_int8_has_the_models_integers_and_scales_and_quantized_activations(tmp_path):
    model = models()[0]
    small = pl.quantize(model, random_task(model), target="coreml")
    tensors = freeze(small).named_tensors()
    _, operations = read_back(exported(small, tmp_path), tmp_path)
    stored = weights(operations, "constexpr_blockwise_shift_scale")
    assert len(stored) == 3
    integers = {n: t.numpy() for n, t in tensors.items() if n.endswith("weight_integer")}
    for name, wanted in integers.items():
        (op,) = [o for o in stored if o.data.val.shape == wanted.shape and np.array_equal(o.data.val, wanted)]
        assert np.allclose(op.scale.val.ravel(), tensors[name.replace("_integer", "_scale")].numpy(), rtol=1e-6)
    assert weights(operations, "quantize") and weights(operations, "dequantize")


def test_shared_weights_are_a_table_and_indices(tmp_path):
    torch.manual_seed(0)
    model = pl.load(nn.Sequential(nn.Flatten(), nn.Linear(192, 64)).eval(), torch.randn(2, 3, 8, 8), name="net")
    shared = pl.share_weights(model, bits=4)
    _, operations = read_back(exported(shared, tmp_path), tmp_path)
    (op,) = weights(operations, "constexpr_lut_to_dense")
    weight = op.lut.val.ravel()[op.indices.val.astype(int)].reshape(64, 192)
    values = torch.randn(5, 3, 8, 8)
    bias = next(t for n, t in shared.named_tensors().items() if n.endswith("bias")).detach()
    assert op.lut.val.size == 16
    wanted = shared.copy().eval()(values).detach()
    assert torch.allclose(values.flatten(1) @ torch.from_numpy(weight).T + bias, wanted, atol=1e-5)


def test_a_file_is_the_package_in_a_zip_and_the_same_each_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, again = exported(models()[0], tmp_path / "a"), exported(models()[0], tmp_path / "b")
    assert first.path.read_bytes() == again.path.read_bytes()
    with zipfile.ZipFile(first.path) as archive:
        assert {n.partition("/")[0] for n in archive.namelist()} == {"network.mlpackage"}
        assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs here")
def test_off_macos_it_is_written_and_running_it_is_refused_in_one_line(tmp_path):
    artifact = exported(models()[0], tmp_path)
    assert artifact.manifest["notes"] == ["not run: predictions need macOS"]
    with pytest.raises(pl.PacklightError, match=r"net.zip does not run here: coreml files run on macOS"):
        pl.Runner(artifact)


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs here")
def test_doctor_and_targets_say_where_it_runs():
    (entry,) = [t for t in inventory() if t["target"] == "coreml"]
    assert entry["state"] == "exports here; runs on macOS"
    assert "coremltools" in entry["versions"]
    found = _try(get("coreml"), True)
    assert found.ok and "runs on macOS" in found.text
    assert "coreml" not in [t.name for t in installed()]
