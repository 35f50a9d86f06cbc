"""Files with shared weights on the real runtime."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import exporter
from small_tasks import digits, trained

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx
import onnxruntime

import packlight as pl
from packlight.measure.quality import torch_runner
from packlight.targets import Runner, export, get
from packlight.targets.onnx_codebooks import packed

CASES = {
    "three bits": {"bits": 3},
    "a table for three channels": {"bits": 2, "scope": "channel", "group": 3},
    "ternary": {"kind": "ternary"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_agrees_is_small_and_is_looked_up_when_opened(case, tmp_path) -> None:
    small = pl.share_weights(trained(), **CASES[case])
    artifact = export(small, tmp_path / "small.onnx", get("onnxruntime"), exporter=exporter())
    plain = export(pl.fold(trained()), tmp_path / "float.onnx", get("onnxruntime"), exporter=exporter())
    x = digits().test.inputs[0][:64]
    (wanted,) = torch_runner(small)(x)
    with Runner(artifact) as runner:
        (got,) = runner(x)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()  # float32 in another order
    wrong = small.copy()
    name = "head.weight_scale" if case == "ternary" else "head.weight_table"
    wrong.set_tensor(name, small.named_tensors()[name].detach() * 1.01, trainable=True)
    assert np.abs(torch_runner(wrong)(x)[0] - wanted).max() > 1e-3 * np.abs(wanted).max()

    weights = pl.statistics(small).weight_bytes
    assert artifact.path.stat().st_size < weights + 6000 < plain.path.stat().st_size / 2
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    opened = {n.op_type for n in onnx.load(tmp_path / "opened.onnx").graph.node}
    assert not opened & {"Gather", "BitShift", "BitwiseAnd", "Cast"}, "nothing is looked up at every call"


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_hold_every_number(bits: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 2**bits, 131).astype(np.uint8)
    words, each = packed(numbers, bits), 64 // bits
    assert len(words) == -(-131 // each)
    assert [int(words[i // each]) >> (i % each * bits) & (2**bits - 1) for i in range(131)] == numbers.tolist()
