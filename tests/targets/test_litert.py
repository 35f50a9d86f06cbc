"""LiteRT: what its converter and its kernels get wrong by themselves, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import packlight as pl
from packlight.errors import MissingRuntime, PacklightError
from packlight.measure.quality import torch_runner
from packlight.targets import Child, Runner, adapted, export, get
from packlight.testing.examples import inputs_of, random_task, worst

LITERT = get("litert")
# Float files differ by the order of additions; in int8 every step is rounded alike, and a rounding that falls the other
# way moves one value in a few hundred by one step.
FLOAT, INT8 = 1e-5, 2e-2


@pytest.fixture(scope="module")
def exporter():
    try:
        with Child(LITERT) as child:
            yield child
    except MissingRuntime as missing:
        pytest.skip(str(missing))


class Between(nn.Module):
    """An operation between two convolutions."""

    def __init__(self, operation, last=True):
        super().__init__()
        self.operation = operation
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = last

    def forward(self, x):
        x = self.operation(self.first(x))
        return self.second(x) if self.last else x


def made(module, *inputs, name="net"):
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_uniform_(parameter)
    return pl.load(module.eval(), tuple(inputs), name=name)


def agree(model, path, exporter, limit, **options):
    model, _ = adapted(model, LITERT.numerics)
    artifact = export(model, path, LITERT, exporter=exporter, **options)
    inputs = inputs_of(model, artifact.fixed_batch)
    with Runner(artifact) as runner:
        found = worst(runner(*inputs), torch_runner(model)(*inputs))
    assert found.within(limit), found
    return artifact


TRAPS = {
    "softmax's own scale": lambda x: x.softmax(1),
    "sigmoid's own scale": torch.sigmoid,
    "a copy with another scale": lambda x: torch.maximum(x, x.flip(2)),
    "two readers in two layouts": lambda x: x * (x.argmax(1, keepdim=True) == 1),
    "a norm over channels": lambda x: F.normalize(x, dim=1),
    "halves of averages": lambda x: F.avg_pool2d(x, 2),
    "average pooling to another scale": lambda x: F.adaptive_avg_pool2d(x, 2),
    "a clamp that does not fold": lambda x: F.hardtanh(x, -0.2, 0.3),
}


@pytest.mark.parametrize("trap", [
    pytest.param(trap, id=trap, marks=() if i in (0, 2, 3) else pytest.mark.slow) for i, trap in enumerate(TRAPS)
])  # fmt: skip
def test_an_operation_between_int8_convolutions_computes_the_same(trap, exporter, tmp_path):
    model = made(Between(TRAPS[trap]), torch.randn(2, 3, 8, 8))
    small = pl.quantize(model, random_task(model), target="litert")
    agree(small, tmp_path / "net.tflite", exporter, INT8, dims={"batch": 2})


def test_a_table_and_linear_layers_are_stored_as_integers(exporter, tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(200, 32), nn.Linear(32, 64)

        def forward(self, ids):
            return self.head(self.table(ids).mean(1))

    model = pl.load(Words().eval(), (torch.randint(0, 200, (2, 12)),), name="words")
    small = pl.quantize(model, random_task(model), target="litert", mode="dynamic")
    artifact = agree(small, tmp_path / "net.tflite", exporter, INT8)
    assert artifact.manifest["inputs"][0]["dtype"] == "int64"
    assert artifact.bytes < 0.5 * 4 * (200 * 32 + 32 * 64)
    assert any("1 linear layers round their input" in note for note in artifact.manifest["notes"])


def test_int8_files_take_and_give_floats_and_store_integers(exporter, tmp_path):
    model = made(Between(torch.relu), torch.randn(2, 3, 8, 8))
    small = pl.quantize(model, random_task(model), target="litert")
    artifact = agree(small, tmp_path / "net.tflite", exporter, INT8)
    with Runner(artifact) as runner:
        (out,) = runner(np.zeros((1, 3, 8, 8), np.float32))
    assert out.dtype == np.float32
    whole = export(model, tmp_path / "whole.tflite", LITERT, exporter=exporter)
    halves = export(model, tmp_path / "halves.tflite", LITERT, form="float16", exporter=exporter)
    assert whole.bytes - halves.bytes > 2 * 8 * (3 + 8) * 9 - 800  # two bytes a weight, less two conversions


@pytest.mark.parametrize("quantized", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_filter_bank_over_a_waveform_becomes_one_over_frames(quantized, exporter, tmp_path):
    class Bank(nn.Module):
        def __init__(self):
            super().__init__()
            self.bank, self.head = nn.Conv1d(1, 12, 64, stride=16), nn.Linear(12, 4)

        def forward(self, x):
            return self.head(self.bank(x.unsqueeze(1)).relu().mean(2))

    model = made(Bank(), torch.randn(2, 320))
    if quantized:
        model = pl.quantize(model, random_task(model), target="litert")
    agree(model, tmp_path / "net.tflite", exporter, INT8 if quantized else FLOAT)


def test_operators_without_a_form_are_all_named(exporter, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 3, stride=2, padding=1, output_padding=1)

        def forward(self, x):
            return self.up(x)

    with pytest.raises(PacklightError, match=r"LiteRT has no form of these operators of odd: conv_transpose2d"):
        export(made(Odd(), torch.randn(2, 3, 8, 8), name="odd"), tmp_path / "net.tflite", LITERT, exporter=exporter)


def test_fixed_sizes_are_those_that_were_asked_for(exporter, tmp_path):
    model = made(Between(torch.relu), torch.randn(2, 3, 8, 8))
    artifact = agree(model, tmp_path / "net.tflite", exporter, FLOAT, dims={"batch": 3})
    assert artifact.fixed_batch == 3
