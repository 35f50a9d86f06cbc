"""What is MNN's own: scales handed to its converter, weights that it finds again, no network, and what is refused."""

import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.measure.parity import check
from packlight.model.integers import freeze
from packlight.targets import get
from packlight.targets.onnx_graph import strip
from packlight.testing.examples import inputs_of, models, random_task


@pytest.fixture(autouse=True)
def mnn():
    try:
        get("mnn").require()
    except pl.PacklightError as missing:
        pytest.skip(str(missing))


def loaded(*layers, example=None, name="net"):
    torch.manual_seed(0)
    return pl.load(nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8) if example is None else example, name=name)


def exported(model, folder, **options):
    return pl.export(model, folder / "net.mnn", target="mnn", **options)


def scales_of(model):
    from packlight.targets.mnn_scales import take_scales
    from packlight.targets.onnx_convert import convert

    graph = convert(freeze(model.copy().eval()))
    return graph, take_scales(graph)


def test_integers_of_the_file_are_those_of_the_model(tmp_path):
    """Sums of few products, so that float rounding cannot hide behind the runtime's: the answers are equal."""
    model = models()[0]
    small = pl.quantize(model, random_task(model), target="mnn")
    found = check(small, exported(small, tmp_path), inputs_of(small, 16))
    assert found.ok and found.error < 1e-3


def test_every_entry_has_the_models_scales():
    model = models()[0]
    small = pl.quantize(model, random_task(model), target="mnn")
    scales = {n.removesuffix("_scale"): t for n, t in small.named_tensors().items() if n.endswith("weight_scale")}
    graph, taken = scales_of(small)
    assert taken.static == len(scales) == 3
    strip(graph)
    assert not [n for n in graph.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for entry in taken.layers:
        (weight,) = entry["weight"]
        assert any(np.array_equal(np.float32(weight["scales"]), s.detach().numpy()) for s in scales.values())
        assert entry["input"][0]["zeroPoint"] == entry["output"][0]["zeroPoint"] == 0


def test_weights_alone_are_found_again_and_make_the_file_small(tmp_path):
    model = loaded(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 64))
    whole = exported(model, tmp_path).bytes
    small = pl.quantize(model, random_task(model), target="mnn", activations=None, reduce_range=False)
    file = exported(small, tmp_path)
    found = check(small, file, inputs_of(small, 16))
    assert found.ok and found.error < 1e-5, "other integers would be off by thousandths"
    assert file.bytes < whole / 3
    assert not file.manifest["notes"]


def test_weights_that_it_would_round_anew_are_stored_in_float_and_that_is_told(tmp_path):
    model = loaded(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 64))
    small = pl.quantize(model, random_task(model), target="mnn", activations=None, reduce_range=False)
    for name, scale in small.named_tensors().items():
        if name.endswith("weight_scale"):
            small.set_tensor(name, scale * 1.5)  # the largest integer is 85 now
    file = exported(small, tmp_path)
    found = check(small, file, inputs_of(small, 16))
    assert found.ok and found.error < 1e-5
    assert "2 layers with integer weights are stored as float32" in file.manifest["notes"][0]


@pytest.mark.parametrize(
    ("pool", "layers"),
    [(nn.AvgPool2d(2), 2), (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 1)],
    ids=["plain", "padded"],
)
def test_average_pools_do_not_run_in_its_int8(pool, layers, tmp_path):
    model = loaded(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, nn.Conv2d(8, 8, 3, padding=1))
    small = pl.quantize(model, random_task(model), target="mnn", reduce_range=False)
    _, taken = scales_of(small)
    assert taken.static == layers
    if layers == 2:
        found = check(small, exported(small, tmp_path), inputs_of(small, 8))
        assert found.ok and abs(found.gain - 1) < 2e-3, "left to MNN it is 0.98, errors of 0.01 are ties"


def test_integers_come_back_as_the_model_has_them(tmp_path):
    class Best(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    model = loaded(nn.Flatten(), nn.Linear(192, 5), Best())
    with pl.Runner(exported(model, tmp_path)) as runner:
        (got,) = runner(*inputs_of(model, 4))
    assert got.dtype == np.int64
    assert np.array_equal(got, model(torch.from_numpy(inputs_of(model, 4)[0])).numpy())


def test_a_file_takes_any_batch_after_any_other(tmp_path):
    model = models()[0]
    with pl.Runner(exported(model, tmp_path)) as runner:
        for batch in (1, 5, 2):
            (x,) = inputs_of(model, batch)
            wanted = model.copy().eval()(torch.from_numpy(x)).detach().numpy()
            assert np.allclose(runner(x)[0], wanted, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_converter_runs_where_no_address_can_be_reached():
    from packlight.targets import mnn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        before, after = mnn._CONVERT.split("import _tools")
        assert "mnnconvert" in after
        reach = f"{before}\nimport socket\nsocket.create_connection({address!r}, 2)"
        allowed = subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
        if not allowed:
            pytest.skip("this system gives no namespaces to users")
        threading.Thread(target=lambda: socket.create_connection(address).close()).start()
        listener.accept()[0].close()  # it can be reached from here
        done = subprocess.run([sys.executable, "-c", reach], capture_output=True, text=True)
    assert done.returncode and "OSError" in done.stderr, done.stderr


def test_importing_the_runtime_brings_none_of_what_reports_usage():
    code = "import MNN, _tools, sys; print([m for m in sys.modules if m.startswith('MNN.tools')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_it_cannot_convert_is_told_in_one_line(tmp_path, monkeypatch):
    from packlight.targets import mnn

    monkeypatch.setattr(mnn, "_CONVERT", "import sys; print('These Op Not Support: ONNX::Odd'); sys.exit(1)")
    model = models()[0]
    with pytest.raises(pl.PacklightError, match=r"MNN cannot convert convolutions: These Op Not Support: ONNX::Odd"):
        mnn.Mnn().write(model, tmp_path / "net.mnn", "float32", {"batch": 1})
