"""Files of weights in blocks, on the real runtime: its own 4-bit kernel, and what is widened when they are opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import exporter
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

import onnx

import packlight as pl
from packlight.measure.parity import difference
from packlight.measure.quality import torch_runner
from packlight.targets import Artifact, Runner, export, get
from packlight.targets.onnx_blocks import packed

LIMIT = 1e-5  # both compute in float32
LENET = Path(__file__).parents[2] / "benchmarks/networks/lenet300.plm"


class Tokens(nn.Module):
    """Linear layers on three axes and on two, with biases and without."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, 320), nn.Linear(320, 64, bias=False)
        self.head, self.bare = nn.Linear(64, 24), nn.Linear(24, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(torch.relu(self.wide(x)))
        return self.bare(torch.relu(self.head(x.mean(1))))


@pytest.fixture(scope="module")
def tokens() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Tokens(), torch.zeros(2, 6, 64))


def made(model: pl.Model, folder: Path, form: str = "float32", **options: object) -> tuple[pl.Model, Artifact]:
    small = pl.quantize(model, mode="weights", **options)  # type: ignore[arg-type]
    return small, export(small, folder / "small.onnx", get("onnxruntime"), form=form, exporter=exporter())


def operators(artifact: Artifact) -> list[str]:
    return [n.op_type for n in onnx.load(artifact.path).graph.node]


CASES = [
    pytest.param(bits, group, symmetric, id=f"{bits}-bits-{group}-{'symmetric' if symmetric else 'affine'}")
    for bits, group, symmetric in (
        (4, 32, True), (4, 16, False), (3, None, True), (2, 64, True), (2, 32, False), (5, 32, False),
    )
]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "symmetric"), CASES)
def test_the_file_computes_what_the_model_computes(tokens, tmp_path, bits, group, symmetric):
    small, artifact = made(tokens, tmp_path, weights=bits, ends=bits, group=group, symmetric=symmetric)
    wrong = small.copy()
    scale = wrong.named_tensors()["narrow.weight_scale"]
    wrong.set_tensor("narrow.weight_scale", scale * 1.01)
    wrong.set_tensor("narrow.weight", wrong.named_tensors()["narrow.weight"].detach() * 1.01)
    with Runner(artifact) as runner:
        for batch in (1, 5):
            x = tokens.example_inputs(seed=batch, batch=batch)[0].numpy()
            (got,) = runner(x)
            assert difference(got, torch_runner(small)(x)[0]).within(LIMIT)
            assert not difference(got, torch_runner(wrong)(x)[0]).within(LIMIT)
    found = operators(artifact)
    assert "DequantizeLinear" not in found and ("MatMulNBits" in found) == (bits in (3, 4))
    weights = sum(t.numel() for n, t in tokens.named_tensors().items() if t.dim() == 2)
    stored = {2: 2, 3: 4, 4: 4}.get(bits, 8) + 40 / min(group or 24, 64)  # a scale and a zero point a block
    assert artifact.bytes < weights * stored / 8 + 8_000


def test_linear_layers_on_two_axes_and_on_three_use_the_kernel(tokens, tmp_path):
    """Also those that the search for a form would store with half-precision scales."""
    small, artifact = made(tokens, tmp_path, weights=4, ends=4, group=16, form="float16")
    assert operators(artifact).count("MatMulNBits") == 4
    assert not {"Gemm", "MatMul", "Transpose"} & set(operators(artifact))
    x = tokens.example_inputs(batch=4)[0].numpy()
    with Runner(artifact) as runner:
        found = difference(runner(x)[0], torch_runner(small)(x)[0])
    assert 1e-6 < found.error < 1e-3
    weights = sum(t.numel() for t in tokens.named_tensors().values() if t.dim() == 2)
    assert artifact.bytes < weights * (4 + 16 / 16) / 8 + 8_000


def test_rows_that_no_block_divides_are_filled_up(tmp_path):
    """A trained network of 784, 300 and 100 inputs."""
    lenet = pl.load(LENET)
    small, artifact = made(lenet, tmp_path, weights=4)
    x = lenet.example_inputs(batch=16)[0].numpy()
    with Runner(artifact) as runner:
        assert difference(runner(x)[0], torch_runner(small)(x)[0]).within(LIMIT)
    whole = export(lenet, tmp_path / "whole.onnx", get("onnxruntime"), exporter=exporter())
    assert operators(artifact).count("MatMulNBits") == 1, "the ends have eight bits"
    assert artifact.bytes < 0.31 * whole.bytes


def test_the_first_code_is_in_the_low_bits():
    codes = np.array([[1, 2, 3, 0]], np.uint8)
    assert packed(codes, 4).tolist() == [[0x21, 0x03]] and packed(codes, 2).tolist() == [[0b00111001]]
