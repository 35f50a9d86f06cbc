"""What is OpenVINO's own: int8 kernels that really run, any shape, the plain form's precision."""

import numpy as np
import pytest
import torch

import packlight as pl
from packlight.measure.parity import check
from packlight.targets import Runner, get
from packlight.testing.examples import inputs_of, models, random_task


@pytest.fixture(autouse=True)
def _needed():
    try:
        get("openvino").require()
    except pl.PacklightError as missing:
        pytest.skip(str(missing))


def kernels(path, threads=1):
    """Operator type → what its kernel is called, of a file opened at its example's shapes."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({0: [1, 3, 8, 8]})
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    made = core.compile_model(model, "CPU", options).get_runtime_model()
    return [(str(o.rt_info["layerType"].value), str(o.rt_info["runtimePrecision"].value)) for o in made.get_ops()
            if "layerType" in o.rt_info]  # fmt: skip


def test_int8_runs_in_int8_kernels(tmp_path):
    model = models()[0]
    plain = pl.export(model, tmp_path / "float.xml", target="openvino")
    small = pl.quantize(model, random_task(model), target="openvino")
    file = pl.export(small, tmp_path / "int8.xml", target="openvino")
    low = [p for t, p in kernels(file.path) if "Convolution" in t]
    assert len(low) == 2 and all(p in ("u8", "i8") for p in low)
    assert all(p == "f32" for t, p in kernels(plain.path) if "Convolution" in t)


def test_a_file_takes_more_shapes_than_it_compiles_for(tmp_path):
    model = models()[0]
    file = pl.export(model, tmp_path / "net.xml", target="openvino")
    with Runner(file) as runner:
        for batch in (1, 2, 3, 4, 5, 6, 1):
            (x,) = inputs_of(model, batch)
            (got,) = runner(x)
            assert got.shape == (batch, 4)
            np.testing.assert_allclose(got, model.eval().flat(torch.from_numpy(x))[0].detach().numpy(), atol=1e-5)


def test_both_parts_of_the_file_are_in_the_manifest(tmp_path):
    file = pl.export(models()[0], tmp_path / "net.xml", target="openvino")
    assert sorted(file.manifest["files"]) == ["net.bin", "net.xml"]
    saved = file.save(tmp_path / "out")
    saved.verify()
    (saved.path.parent / "net.bin").write_bytes(b"other")
    with pytest.raises(pl.PacklightError, match=r"net\.bin is not the file its manifest describes"):
        saved.verify()


def test_a_model_quantized_for_two_runtimes_is_right_on_both(tmp_path):
    model = models()[0]
    small = pl.quantize(model, random_task(model), target=["onnxruntime", "openvino"])
    for name in ("onnxruntime", "openvino"):
        file = pl.export(small, tmp_path / f"net{get(name).suffix}", target=name)
        assert check(small, file, inputs_of(model, 8)).ok
