"""Rounding that is learned or corrected, bits by measured damage, and the blocks that both work on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from small_tasks import digits, trained
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.numerics import Format
from packlight.model.operators import load_quantized_operators, packet
from packlight.networks import transformer_classifier
from packlight.passes.quantize import Bits, Quantization, quantize
from packlight.passes.quantize.blocks import Walker, blocks
from packlight.passes.quantize.gptq import rounded
from packlight.passes.quantize.mixed import Damage, assign, damages
from packlight.passes.quantize.rounding import Rounding
from packlight.targets import get
from packlight.task import Task

load_quantized_operators()
NUMERICS = get("onnxruntime").numerics
ROUGH = Quantization(bits=Bits(weights=2, ends=2), samples=64)
QUICK = Rounding(steps=150)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.apart = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        return self.head(self.apart(x).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Residual(), torch.zeros(2, 3, 8, 8))


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(calibration=np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32))


def off(net: pl.Model, small: pl.Model, task: Task) -> float:
    """Squared change of the outputs over their size, on the calibration data."""
    x = torch.from_numpy(task.data("calibration").take(96).inputs[0])
    a, b = net.flat(x)[0].detach(), small.flat(x)[0].detach()
    return float((a - b).square().sum() / a.square().sum())


def on_grid(small: pl.Model) -> bool:
    """Whether every weight is a whole number of its scale's steps within its bits."""
    for node in small.nodes:
        if packet(node) == "quantize_per_channel":
            master, scale = (small.tensor(a).detach() for a in node.args[:2])  # type: ignore[arg-type]
            steps = master / scale.reshape(-1, *[1] * (master.dim() - 1))
            low, high = node.args[4:6]
            if (
                not torch.allclose(steps, steps.round(), atol=1e-3)
                or steps.min() < low - 0.01
                or steps.max() > high + 0.01
            ):  # type: ignore[operator]
                return False
    return True


def test_a_block_ends_where_one_value_is_left(net: pl.Model, task: Task) -> None:
    small = quantize(net, task, NUMERICS, ROUGH)
    found = [(small.layer(b.output), len(b.weights)) for b in blocks(small)]
    assert found == [("relu", 1), ("relu_2", 2), ("apart", 1), ("head", 1)]
    single = [(small.layer(b.output), len(b.weights)) for b in blocks(small, layers=True)]
    assert single == [("relu", 1), ("relu_1", 1), ("b", 1), ("apart", 1), ("head", 1)]


def test_a_walker_gives_what_the_network_gives_and_forgets_what_is_read(net: pl.Model) -> None:
    batches = [net.example_inputs(seed=i) for i in range(2)]
    walker = Walker(net, batches)
    (end,) = (n for n in net.nodes if net.layer(n) == "head")
    for node in [n for n in net.nodes if n.op == "call_function"]:
        walker.advance(node)
        walker.forget()
    for got, batch in zip(walker.values(end), batches, strict=True):
        assert torch.equal(got, net.flat(*batch)[0])
    assert all(len(run.env) <= 2 for run in walker.runs)


@pytest.mark.parametrize("how", ["gptq", replace(QUICK, layers=True, drop=1.0, scales=False), QUICK],
                         ids=["gptq", "adaround", "block"])  # fmt: skip
def test_outputs_are_nearer_to_the_float_ones_and_weights_on_their_grid(
    net: pl.Model, task: Task, how: str | Rounding
) -> None:
    nearest = quantize(net, task, NUMERICS, ROUGH)
    made = quantize(net, task, NUMERICS, replace(ROUGH, rounding=how))
    assert off(net, made, task) < 0.7 * off(net, nearest, task)
    assert on_grid(made) and not on_grid(nearest)  # whose masters are what they were
    scales = [[n.args[1] for n in m.nodes if packet(n) == "quantize_per_tensor"] for m in (nearest, made)]
    assert (scales[0] == scales[1]) == (how != QUICK)  # block reconstruction learns those of activations


def test_a_learned_weight_is_one_of_the_two_integers_around_it(net: pl.Model, task: Task) -> None:
    nearest = quantize(net, task, NUMERICS, ROUGH)
    made = quantize(net, task, NUMERICS, replace(ROUGH, rounding=QUICK))
    for node in nearest.nodes:
        if packet(node) == "quantize_per_channel":
            name = str(node.args[0].target)  # type: ignore[union-attr]
            before, after = nearest.named_tensors()[name].detach(), made.named_tensors()[name].detach()
            scale = nearest.tensor(node.args[1]).reshape(-1, *[1] * (before.dim() - 1))  # type: ignore[arg-type]
            inside = (before / scale).abs() < 1
            assert ((before - after).abs() <= 1.001 * scale)[inside].all()


def test_learned_rounding_of_a_trained_network_wins_back_accuracy() -> None:
    def score(how: str | Rounding) -> float:
        made = quantize(trained(), digits(), NUMERICS, Quantization(bits=Bits(weights=2, ends=2), rounding=how))
        return pl.measure(made, digits(), split="validation")["quality"].value

    assert score(replace(QUICK, steps=300)) > score("nearest")


def test_gptq_lowers_the_error_of_correlated_inputs_and_leaves_independent_ones_nearest() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=draw, dtype=torch.float64) @ torch.randn(
        6, 24, generator=draw, dtype=torch.float64
    )
    x = x + 0.1 * torch.randn(500, 24, generator=draw, dtype=torch.float64)
    w = torch.randn(8, 24, generator=draw, dtype=torch.float64)
    scale, zero = w.abs().amax(1) / 3, torch.zeros(8, dtype=torch.float64)
    nearest = (w / scale[:, None]).round().clamp(-4, 3) * scale[:, None]

    def error(q: Tensor) -> float:
        return float(((q - w) @ x.T).square().sum())

    for act_order in (True, False):
        assert error(rounded(w, x.T @ x, scale, zero, -4, 3, act_order)) < 0.5 * error(nearest)
    assert torch.equal(rounded(w, torch.eye(24, dtype=torch.float64), scale, zero, -4, 3), nearest)
    silent = x.clone()
    silent[:, :5] = 0
    assert rounded(w, silent.T @ silent, scale, zero, -4, 3).isfinite().all()


def test_bits_are_the_best_there_are_for_the_bytes() -> None:
    draw = np.random.default_rng(0)
    table = [
        Damage(f"l{i}", int(n), {b: float(d * 4.0**-b) for b in (2, 4, 8)})
        for i, (n, d) in enumerate(zip(draw.integers(10, 100, 5), draw.exponential(size=5), strict=True))
    ]
    total = sum(row.elements for row in table)

    def worth(bits: tuple[int, ...]) -> float:
        return sum(row.change[b] for row, b in zip(table, bits, strict=True))

    fits = [c for c in product((2, 4, 8), repeat=5)
            if sum(b * row.elements for b, row in zip(c, table, strict=True)) <= 4 * total]  # fmt: skip
    assert worth(tuple(assign(table, 4).values())) == pytest.approx(min(map(worth, fits)))
    assert assign(table, 4, {"l0": 8})["l0"] == 8 and set(assign(table, 8).values()) == {8}
    with pytest.raises(PacklightError, match="is the least here"):
        assign(table, 2, {"l0": 8})


def test_damage_is_what_the_weights_of_one_layer_do(net: pl.Model, task: Task) -> None:
    x = torch.from_numpy(task.data("calibration").take(32).inputs[0])
    layers = [n for n in net.nodes if packet(n) in ("conv2d", "linear")]
    before = {n: t.clone() for n, t in net.named_tensors().items()}
    found = damages(net, layers, Format(per_channel=True), [(x,)], choices=(2, 8))
    assert [d.layer for d in found] == ["stem", "a", "b", "apart", "head"]
    assert all(d.change[2] > 50 * d.change[8] > 0 for d in found)
    assert all(torch.equal(t, before[n]) for n, t in net.named_tensors().items())


def test_mixed_bits_keep_to_their_mean_and_change_less_than_equal_ones(net: pl.Model, task: Task) -> None:
    equal = Quantization(bits=Bits(weights=3, ends=3), samples=64)
    mixed = quantize(net, task, NUMERICS, replace(equal, bits=Bits(ends=2, mixed=3.0)))
    bits, elements = [], []
    for node in mixed.nodes:
        if packet(node) == "quantize_per_channel":
            low, high = node.args[4:6]
            bits.append(int(np.ceil(np.log2(high - low + 1))))  # type: ignore[operator]
            elements.append(mixed.tensor(node.args[0]).numel())  # type: ignore[arg-type]
    assert np.average(bits, weights=elements) <= 3 and len(set(bits)) > 1
    assert off(net, mixed, task) < off(net, quantize(net, task, NUMERICS, equal), task)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"weights": 9}, "weights takes 2 to 8 bits, got 9"),
        ({"activations": 1}, "activations takes 2 to 8 bits"),
        ({"layers": {"head": 16}}, "head takes 2 to 8 bits, got 16"),
        ({"weights": True}, "got True"),
        ({"mixed": 1.5}, "2 to 8 bits in the mean"),
    ],
)
def test_bits_that_there_are_not_are_refused_before_any_work(options: dict, told: str) -> None:
    with pytest.raises(PacklightError, match=told):
        Bits(**options)


@pytest.mark.parametrize("how", ["gptq", replace(QUICK, layers=True, drop=1.0, scales=False), QUICK],
                         ids=["gptq", "adaround", "block"])  # fmt: skip
def test_weights_are_rounded_where_ranges_are_taken_at_run_time(how: str | Rounding) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    net = pl.load(layers.eval(), torch.zeros(2, 16))
    task = Task(calibration=np.random.default_rng(0).standard_normal((96, 16)).astype(np.float32))
    rough = Quantization(bits=Bits(weights=3, ends=3), mode="dynamic")
    nearest, made = (quantize(net, task, NUMERICS, o) for o in (rough, replace(rough, rounding=how)))
    assert on_grid(made) and off(net, made, task) < 0.7 * off(net, nearest, task)


def test_rounding_that_there_is_not_is_refused() -> None:
    with pytest.raises(PacklightError, match="choose nearest, gptq, adaround, block"):
        Quantization(rounding="down")


def test_layers_get_the_bits_that_their_names_say(net: pl.Model, task: Task) -> None:
    small = quantize(net, task, NUMERICS, Quantization(bits=Bits(weights=4, layers={"*": 3, "b": 6, "head": 8})))
    found = {}
    for node in small.nodes:
        if packet(node) == "quantize_per_channel":
            found[small.layer(node).removesuffix(".weight.quantize")] = node.args[4:6]
    assert found == {"stem": (-4, 3), "a": (-4, 3), "b": (-32, 31), "apart": (-4, 3), "head": (-127, 127)}


@pytest.mark.parametrize("how", ["gptq", Rounding(steps=5)], ids=["gptq", "block"])
def test_a_network_that_reads_text_is_rounded_but_for_its_tables(how: str | Rounding) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 30_000, (2, 8))
    net = pl.load(transformer_classifier(3, tokens=8, width=32, layers=1), (ids, torch.ones_like(ids)))
    words = np.random.default_rng(0).integers(0, 30_000, (32, 8))
    task = Task(calibration=((words, np.ones_like(words)), np.zeros(32, np.int64)))
    options = Quantization(bits=Bits(weights=3, ends=3), rounding=how)
    small, nearest = (quantize(net, task, NUMERICS, o) for o in (options, replace(options, rounding="nearest")))
    tables = [n for n in net.named_tensors() if n.startswith(("words", "positions"))]
    assert tables and all(torch.equal(small.named_tensors()[n], nearest.named_tensors()[n]) for n in tables)
    assert not torch.equal(small.named_tensors()["head.weight"], nearest.named_tensors()["head.weight"])
    assert not [note for note in small.notes if "nearest" in note]
