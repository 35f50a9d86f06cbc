"""Pre- and post-processing inside the network: the same answers from what a camera gives."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import packlight as pl
from packlight.targets import Runner
from packlight.testing.examples import models, random_task

SCALE, SHIFT = (0.01, 0.02, 0.03), (-1.0, 0.0, 0.5)


@pytest.fixture(scope="module")
def network():
    return models()[0]


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def prepared(pictures):
    return pictures.float() * torch.tensor(SCALE).view(3, 1, 1) + torch.tensor(SHIFT).view(3, 1, 1)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bytes_in_any_layout_give_the_same_answers(network, pictures, layout, quantized):
    inner = pl.quantize(network, random_task(network)) if quantized else network
    whole = pl.build_in(inner, layout=layout, scale=SCALE, shift=SHIFT, after="softmax")
    given = pictures.permute(0, 2, 3, 1) if layout == "NHWC" else pictures
    wanted = inner.eval().flat(prepared(pictures))[0].softmax(1)
    torch.testing.assert_close(whole.flat(given)[0], wanted, rtol=0, atol=1e-6)
    assert whole.inputs[0].dtype == "uint8"
    off = pl.build_in(inner, layout=layout, scale=[s * 1.01 for s in SCALE], shift=SHIFT, after="softmax")
    assert (off.flat(given)[0] - wanted).abs().max() > 1e-6


@pytest.mark.parametrize("after", ["argmax", "sigmoid"])
def test_what_comes_after(network, pictures, after):
    whole = pl.build_in(network, dtype="float32", after=after)
    scores = network.eval().flat(pictures.float())[0]
    wanted = scores.argmax(1) if after == "argmax" else scores.sigmoid()
    assert torch.equal(whole.flat(pictures.float())[0], wanted)
    assert whole.outputs[0].dtype == ("int64" if after == "argmax" else "float32")


def test_the_file_takes_pictures(network, pictures, tmp_path):
    small = pl.quantize(network, random_task(network))
    whole = pl.build_in(small, layout="NHWC", scale=SCALE, shift=SHIFT, after="argmax")
    file = pl.export(whole, tmp_path / "net.onnx")
    assert file.manifest["inputs"] == [{"name": "image", "dtype": "uint8", "shape": ["batch", 8, 8, 3]}]
    with Runner(file) as runner:
        (labels,) = runner(pictures.permute(0, 2, 3, 1).contiguous().numpy())
    assert np.array_equal(labels, small.flat(prepared(pictures))[0].argmax(1).numpy())


def test_scale_and_shift_come_from_the_task(network, pictures):
    task = pl.Task("t", calibration=np.zeros((2, 3, 8, 8), np.float32), preprocessing={"scale": 0.25, "shift": -1})
    whole = pl.build_in(network, task)
    torch.testing.assert_close(whole.flat(pictures)[0], network.eval().flat(pictures.float() * 0.25 - 1)[0])


def test_it_saves_and_loads(network, pictures, tmp_path):
    whole = pl.build_in(network, scale=SCALE, after="argmax")
    again = pl.load(whole.save(tmp_path / "net.plm"))
    assert torch.equal(again.flat(pictures)[0], whole.flat(pictures)[0])
    assert json.loads(json.dumps(dict(again.lineage[-1].options)))["after"] == "argmax"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "uint4"}, "dtype 'uint4': choose"),
        ({"layout": "CHWN"}, "layout 'CHWN': choose"),
        ({"after": "top5"}, "after 'top5': choose"),
        ({"scale": (1.0, 2.0)}, "scale has 2 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(network, options, told):
    with pytest.raises(pl.PacklightError, match=told):
        pl.build_in(network, **options)


def test_a_network_of_tokens_has_no_bytes_to_take():
    tokens = pl.load(nn.Embedding(10, 4), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(pl.PacklightError, match="only a float32 input"):
        pl.build_in(tokens)
