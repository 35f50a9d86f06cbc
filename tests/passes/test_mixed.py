"""Bits by layer: what is chosen measures no worse than equal bits, budgets hold, and the notes say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_tasks
import torch

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.statistics import statistics
from packlight.passes.batches import batches_of
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.passes.quantize.mixed import Damage, Roundings, damages
from packlight.passes.quantize.presets import Limit, parse_limit
from packlight.passes.quantize.refine import choose
from packlight.passes.sensitivity.change import Changes, distance_for
from packlight.passes.sensitivity.table import weighted
from packlight.targets import get

NUMERICS = get("onnxruntime").numerics
TASK = small_tasks.digits()


@pytest.fixture(scope="module")
def net() -> pl.Model:
    return pl.fold(small_tasks.trained())


def bits_of(model: pl.Model) -> dict[str, int]:
    return {r.name: r.weight_bits for r in statistics(model).layers if r.weight_bits}


def made(net: pl.Model, **bits: object) -> pl.Model:
    return quantize(net, TASK, NUMERICS, Quantization(bits=Bits(ends=2, **bits), samples=64))  # type: ignore[arg-type]


def test_a_table_that_is_wrong_does_not_make_the_network_worse_than_equal_bits(net: pl.Model) -> None:
    layers = list(weighted(net).values())
    data = [x for x, _ in batches_of(net, TASK.data("calibration"), 64, 32)]
    forms = Roundings(net, layers, NUMERICS.weight)
    changes = Changes(net, data, distance_for(TASK, net))
    right = damages(net, layers, NUMERICS.weight, data, distance=changes.distance)
    wrong = [replace(row, change={b: 1 / (d + 1e-6) for b, d in row.change.items()}) for row in right]
    led_astray = choose(changes, forms, wrong, 4, {})
    assert led_astray.equal is not None and led_astray.solved.measured > 10 * led_astray.equal.measured
    assert led_astray.best.measured <= led_astray.equal.measured
    found = choose(changes, forms, right, 4.5, {})
    assert found.equal is not None and found.best.measured < found.equal.measured
    sizes = {n: w.numel() for n, w in forms.weights.items()}
    assert sum(b * sizes[n] for n, b in found.best.bits.items()) <= 4.5 * sum(sizes.values())
    again = changes.whole({n: forms.rounded(n, b) for n, b in found.best.bits.items()})
    assert found.best.measured == pytest.approx(again)


def test_layers_that_have_their_bits_keep_them(net: pl.Model) -> None:
    small = made(net, mixed=6.0, layers={"body": 8})
    assert bits_of(small)["body"] == 8 and min(bits_of(small).values()) < 6
    assert any("body (set by name)" in note for note in small.notes)


def test_the_notes_say_what_was_measured_and_who_has_how_many_bits(net: pl.Model) -> None:
    small = made(net, mixed=4.0)
    told = " | ".join(small.notes)
    assert "as the sum of single layers'" in told and "measured together" in told
    for layer, bits in bits_of(small).items():
        assert any(note.startswith(f"{bits} bits: ") and layer in note for note in small.notes)


@pytest.mark.parametrize("preset", ["global", "local", "mixed"])
def test_a_budget_of_bytes_holds_and_is_used(net: pl.Model, preset: str) -> None:
    elements = sum(net.tensor(n.args[1]).numel() for n in weighted(net).values())  # type: ignore[arg-type]
    small = made(net, mixed=preset, budget=f"{elements * 4.5 / 8 / 1000}kB")
    stored = sum(r.weight_bytes for r in statistics(small).layers) - sum(
        t.numel() * 4 for n, t in small.named_parameters() if n.endswith("bias")
    )
    assert elements * 3.5 / 8 < stored <= elements * 4.5 / 8 + 3
    assert (len(set(bits_of(small).values())) == 1) == (preset == "global")


def test_a_threshold_is_reached_by_every_layer_with_no_bit_to_spare(net: pl.Model) -> None:
    forms = Roundings(net, list(weighted(net).values()), NUMERICS.weight)
    small = made(net, mixed="local", budget="22dB")
    for node, weight in forms.weights.items():
        bits = bits_of(small)[net.layer(node)]
        low, high = (
            10 * torch.log10(weight.square().sum() / (forms.rounded(node, b) - weight).square().sum())
            for b in (max(2, bits - 1 - (bits == 8)), bits)
        )
        assert low < 22 <= high


def test_a_budget_that_is_too_small_is_refused(net: pl.Model) -> None:
    for preset in ("global", "local", "mixed"):
        with pytest.raises(PacklightError, match="is the least here"):
            made(net, mixed=preset, budget="10 bytes")


def test_budgets_are_read_with_their_units() -> None:
    assert parse_limit("200kB", "mixed") == Limit("bytes", 200_000)
    assert parse_limit(" 4.5 bits", "global") == Limit("bits", 4.5)
    assert parse_limit("20dB", "local") == Limit("dB", 20)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mixed": "best"}, "choose global, local, mixed"),
        ({"mixed": "global"}, "needs a budget"),
        ({"mixed": "mixed", "budget": "20dB"}, "give bytes, 200kB, or bits a weight, 4bits$"),
        ({"mixed": "local", "budget": "20"}, "or 20dB"),
        ({"budget": "200kB"}, "needs mixed"),
    ],
)
def test_presets_and_budgets_that_do_not_fit_are_refused_before_any_work(given: dict, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        Bits(**given)


def test_a_row_stands_for_each_layer(net: pl.Model) -> None:
    data = [x for x, _ in batches_of(net, TASK.data("calibration"), 32, 32)]
    table = damages(net, list(weighted(net).values()), NUMERICS.weight, data)
    assert all(isinstance(row, Damage) and row.change[2] > row.change[8] for row in table)
    assert [row.layer for row in table] == list(weighted(net))
