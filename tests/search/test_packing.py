"""`pl.pack` and `pl.unpack`: what is packed comes back, budgets hold, bad input is refused before work starts."""

import numpy as np
import pytest
import torch
from small_tasks import digits, trained

import packlight as pl
from packlight.measure.quality import evaluate
from packlight.model.codebooks import lookups
from packlight.search import packing
from packlight.targets import Runner


@pytest.fixture(scope="module")
def within(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "net.plt"
    return pl.pack(trained(), path, digits(), budget="drop<=1points", samples=256, judged=400)


def test_a_budget_is_kept_and_the_file_is_a_part_of_the_bytes(within):
    network, task = trained(), digits()
    lossless = pl.pack(network, within.path.with_name("all.plt"))
    assert within.drop.value <= 1
    assert within.file_bytes == within.path.stat().st_size
    assert within.file_bytes < lossless.file_bytes / 4
    judged = pl.Task(validation=task.data("validation").take(400))
    again = evaluate(pl.load(within.path), judged, "validation").drop_from(evaluate(network, judged, "validation"))
    assert again.value == within.drop.value


def test_of_what_was_tried_and_keeps_the_budget_the_smallest_is_written(within):
    prices = sorted(within.tries)
    even = packing.evened([within.tries[p][1].value for p in prices])
    kept = {p: within.tries[p][0] for p, e in zip(prices, even, strict=True) if max(e, within.tries[p][1].value) <= 1}
    assert len(within.tries) > len(kept) >= 1
    assert kept[within.price] == min(kept.values()) == within.file_bytes


def test_luck_is_evened_out():
    assert packing.evened([0.1, 0.9, 0.2, 0.4, 3.0]) == pytest.approx([0.1, 0.5, 0.5, 0.5, 3.0])
    assert packing.evened([-1.0, 0.0, 0.0, 2.0]) == [-1.0, 0.0, 0.0, 2.0]
    assert packing.evened([3.0, 2.0, 1.0]) == [2.0] * 3
    assert packing.evened([]) == []


def test_more_confidence_leaves_more_room(within):
    sure = pl.pack(
        trained(), within.path.with_name("sure.plt"), digits(), budget="drop<=1points", confidence=0.9, samples=256,
        judged=400,
    )  # fmt: skip
    assert sure.file_bytes > within.file_bytes
    assert sure.drop.value + 1.2816 * (sure.drop.high - sure.drop.low) / 2 / 1.96 <= 1.001


def test_a_file_for_a_runtime_computes_what_was_packed(within, tmp_path):
    model = pl.unpack(within.path, tmp_path / "net.plm")
    inputs = model.example_inputs(1)
    wanted = model(*inputs).detach().numpy()
    sizes = {}
    for tables in (False, True):
        file = pl.unpack(within.path, tmp_path / f"net{tables}.onnx", tables=tables)
        sizes[tables] = file.bytes
        with Runner(file) as runner:
            (found,) = runner(*(x.numpy() for x in inputs))
        assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert sizes[True] < 0.5 * sizes[False]


def test_tables_hold_the_same_numbers(within):
    from packlight.passes.codebooks import as_tables

    model = pl.load(within.path)
    tabled = as_tables(model)
    assert lookups(tabled)
    inputs = model.example_inputs(2)
    assert torch.equal(model(*inputs), tabled(*inputs))


def test_a_price_without_a_task_needs_no_data(tmp_path):
    made = pl.pack(trained(), tmp_path / "net.plt", price=1e-4)
    assert made.ratio > 4
    assert made.drop is None


WRONG = {
    "suffix": ({"path": "net.onnx"}, "packed networks are .plt files"),
    "mode": ({"mode": "tiny"}, "choose small or fast"),
    "budget without task": ({"budget": "drop<=1%"}, "a budget needs a task"),
    "budget and price": ({"budget": "drop<=1%", "task": digits, "price": 1e-6}, "takes the place of a price"),
    "latency": ({"budget": "latency<=1ms", "task": digits}, "packing takes one limit, of the drop"),
    "training without budget": ({"finetune": pl.Fit(), "task": digits}, "training prunes as far as a budget allows"),
    "confidence": ({"budget": "drop<=1%", "task": digits, "confidence": 1.0}, r"confidence is in \[0.5, 1\)"),
    "confidence of nothing": ({"confidence": 0.9}, "confidence is that of a budget"),
    "price": ({"price": -1.0}, "the loss that one bit is worth, > 0"),
    "exclude": ({"exclude": "head"}, "nothing is rounded without a budget"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "told"), WRONG.values(), ids=WRONG)
def test_bad_options_are_refused(given, told, tmp_path):
    given = dict(given)
    path = tmp_path / given.pop("path", "net.plt")
    if "task" in given:
        given["task"] = given["task"]()
    with pytest.raises(pl.PacklightError, match=told):
        pl.pack(trained(), path, **given)
    assert not path.exists()


def test_a_budget_that_nothing_keeps_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_CHEAPEST", 1e-3)  # each of the prices left loses a lot
    with pytest.raises(pl.PacklightError, match=r"every price loses more than drop<=0.5points"):
        pl.pack(trained(), tmp_path / "net.plt", digits(), budget="drop<=0.5points", samples=64, judged=200)
    assert list(tmp_path.iterdir()) == []
