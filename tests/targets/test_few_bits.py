"""Files of fewer than eight bits: the runtime computes what the Model does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_tasks import digits, trained

from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.targets import Child, Runner, export, get

ORT = get("onnxruntime")


@pytest.mark.parametrize(("weights", "activations"), [(4, 8), (2, 4), (8, 3), (4, None)])
def test_the_file_of_few_bits_agrees_with_the_model(weights, activations, tmp_path, exporter: Child):
    pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")
    options = Quantization(bits=Bits(weights=weights, activations=activations, ends=min(weights, activations or 8)))
    small = quantize(trained(), digits(), ORT.numerics, options)
    artifact = export(small, tmp_path / "small.onnx", ORT, exporter=exporter)
    x = digits().test.inputs[0][:64]
    wanted = small.flat(torch.from_numpy(x))[0].detach().numpy()
    with Runner(artifact) as runner:
        (got,) = runner(x)
    eight = quantize(trained(), digits(), ORT.numerics).flat(torch.from_numpy(x))[0].detach().numpy()
    off = np.abs(got - wanted).max(1)
    assert np.median(off) < 1e-4 * np.abs(wanted).max()  # a tie may fall the other way in single samples
    assert (got.argmax(1) == wanted.argmax(1)).mean() > 0.96
    assert np.abs(wanted - eight).max() > 10 * np.median(off)  # few bits do change the outputs
