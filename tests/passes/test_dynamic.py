"""Ranges taken at run time, and tables stored as integers."""

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.operators import kind, packet
from packlight.passes.quantize import Quantization, quantize
from packlight.targets import get
from packlight.testing import PassContract
from packlight.testing.examples import random_task

NUMERICS = get("onnxruntime").numerics
NO_DATA = pl.Task("no data")
DYNAMIC = Quantization(mode="dynamic")


class Reader(nn.Module):
    """Token ids to scores; `tied`: the head's weight is the table."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.wide, self.other = nn.Linear(16, 24), nn.Linear(16, 24)
        self.head = nn.Linear(24, 40) if not tied else nn.Linear(16, 40, bias=False)
        if tied:
            self.head.weight = self.words.weight
        self.tied = tied

    def forward(self, ids):
        x = self.lstm(self.words(ids))[0]
        return self.head(x) if self.tied else self.head(self.wide(x).relu() + self.other(x))


def made(tied: bool = False) -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Reader(tied).eval(), torch.zeros(2, 6, dtype=torch.int64))


IDS = torch.randint(0, 40, (8, 6), generator=torch.Generator().manual_seed(1))


def readers(model: pl.Model, layer: str) -> list[str]:
    return [packet(n) for n in model.layers()[layer].all_input_nodes]


def test_dynamic_quantization_needs_no_data_and_stays_close():
    model = made()
    small = quantize(model, NO_DATA, NUMERICS, DYNAMIC)
    wanted, got = model(IDS).detach(), small(IDS).detach()
    assert 1e-4 < float((got - wanted).norm() / wanted.norm()) < 0.03
    assert small.notes == model.notes


def test_layers_that_read_one_value_share_its_range():
    small = quantize(made(), NO_DATA, NUMERICS, DYNAMIC)
    assert [packet(n) for n in small.nodes].count("choose_qparams") == 2, "wide and other read one value, head another"
    assert small.layers()["wide"].args[0] is small.layers()["other"].args[0]


def test_values_far_from_any_seen_before_are_not_clipped():
    torch.manual_seed(0)
    model = pl.load(nn.Sequential(nn.Linear(16, 8)).eval(), torch.zeros(2, 16))
    x = 1000 * torch.randn(4, 16)
    wanted = model(x).detach()
    small = quantize(model, NO_DATA, NUMERICS, DYNAMIC)
    assert float((small(x).detach() - wanted).norm() / wanted.norm()) < 0.03
    assert torch.equal(small(torch.zeros(1, 16)), model(torch.zeros(1, 16))), "all zero is no division by zero"


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_tables_and_recurrent_weights_are_stored_with_a_scale_a_row(mode):
    model = made()
    task = pl.Task(calibration=IDS.numpy())
    small = quantize(model, task, NUMERICS, Quantization(mode=mode))
    assert readers(small, "words")[0] == "dequantize_per_channel"
    table, scale = model.named_tensors()["words.weight"], small.named_tensors()["words.weight_scale"]
    stored = small.layers()["words"].args[0]
    rows = stored.target(stored.args[0].target(table, scale, torch.zeros(40).long(), 0, -127, 127, torch.int8),
                         scale, None, 0, -127, 127, torch.int8)  # fmt: skip
    assert scale.shape == (40,)
    assert (rows - table).norm() < 0.008 * table.norm(), "8 bits a row leave about half a percent"
    statistics = {r.name: r for r in pl.statistics(small).layers}
    assert statistics["words"].weight_bytes == 40 * 16
    assert statistics["lstm"].weight_bytes < pl.statistics(model).weight_bytes / 2


def test_a_table_that_is_also_a_layers_weight_stays_float_and_is_reported():
    small = quantize(made(tied=True), NO_DATA, NUMERICS, DYNAMIC)
    assert "words stays in float: its weight is shared with another layer" in small.notes
    assert kind(small.layers()["words"].args[0]) == ""


def test_excluded_layers_stay_float_and_are_reported():
    small = quantize(made(), NO_DATA, NUMERICS, Quantization(mode="dynamic", exclude=("words", "wide")))
    assert {"words stays in float: excluded by name", "wide stays in float: excluded by name"} <= set(small.notes)
    assert "dequantize_per_channel" not in readers(small, "words") + readers(small, "wide")


def test_what_has_no_range_at_run_time_is_reported():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 4)).eval()
    small = quantize(pl.load(net, torch.zeros(2, 3, 8, 8)), NO_DATA, NUMERICS, DYNAMIC)
    assert "0 stays in float: the target takes no range at run time for it" in small.notes


def test_an_unknown_mode_is_one_clear_error():
    with pytest.raises(PacklightError, match="mode 'fast': choose static, dynamic, weights"):
        Quantization(mode="fast")


class TestDynamic(PassContract):
    largest_change = 0.1

    def apply(self, model):
        return quantize(model, random_task(model), NUMERICS, DYNAMIC)

    def models(self):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)).eval()
        return [pl.load(net, torch.zeros(2, 16)), pl.load(net, torch.zeros(2, 5, 16), name="on tokens")]
