"""Costs, against numbers worked out by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from captures import captured
from torch import nn
from zoo import ZOO

from packlight.model import Model, Statistics, statistics
from packlight.model.integers import freeze
from packlight.model.operators import load_quantized_operators
from packlight.networks import resnet20
from packlight.sources import from_module


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *xs):
        return self.function(*xs)


def counted(module: nn.Module, *shapes: tuple[int, ...], batch: int = 1) -> Statistics:
    dynamic = {} if any(s[0] != 2 for s in shapes) else None
    return statistics(from_module(module.eval(), tuple(torch.randn(s) for s in shapes), dynamic=dynamic), batch)


@pytest.mark.parametrize("name", ZOO)
def test_params_are_the_modules(name):
    c = captured(name)
    assert statistics(c.model).params == sum(p.numel() for p in c.module.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_layers_add_up(name):
    counted_ = statistics(captured(name).model)
    assert sum(r.params for r in counted_.layers) == counted_.params
    assert sum(r.macs for r in counted_.layers) == counted_.macs
    assert counted_.weight_bytes == 4 * counted_.params


# A case each, by hand: what is multiplied and summed for one output value, times output values.
MACS = {
    "linear": (nn.Linear(5, 7), [(2, 5)], 7 * 5),
    "linear over a sequence": (nn.Linear(5, 7), [(2, 3, 5)], 3 * 7 * 5),
    "conv2d": (nn.Conv2d(3, 8, 3, padding=1), [(2, 3, 6, 6)], (8 * 36) * (3 * 9)),
    "conv2d, stride": (nn.Conv2d(3, 8, 3, 2, 1), [(2, 3, 6, 6)], (8 * 9) * (3 * 9)),
    "conv2d, groups": (nn.Conv2d(4, 8, 3, groups=2), [(2, 4, 6, 6)], (8 * 16) * (2 * 9)),
    "conv2d, depthwise": (nn.Conv2d(4, 4, 3, groups=4), [(2, 4, 6, 6)], (4 * 16) * 9),
    "conv1d": (nn.Conv1d(2, 4, 5), [(2, 2, 10)], (4 * 6) * (2 * 5)),
    "conv3d": (nn.Conv3d(1, 2, 2), [(2, 1, 3, 3, 3)], (2 * 8) * 8),
    "conv transpose": (nn.ConvTranspose2d(4, 6, 2, 2), [(2, 4, 3, 3)], (4 * 9) * (6 * 4)),
    "conv transpose, groups": (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), [(2, 4, 3, 3)], (4 * 9) * (3 * 4)),
    "bilinear": (nn.Bilinear(3, 4, 5), [(2, 3), (2, 4)], 5 * 3 * 4),
    "lstm": (nn.LSTM(4, 8, batch_first=True), [(2, 5, 4)], 5 * (4 * 8) * (4 + 8)),
    "lstm, two ways": (nn.LSTM(4, 8, batch_first=True, bidirectional=True), [(2, 5, 4)], 2 * 5 * (4 * 8) * (4 + 8)),
    "gru, two layers": (nn.GRU(4, 8, 2, batch_first=True), [(2, 5, 4)], 5 * (3 * 8) * ((4 + 8) + (8 + 8))),
    "lstm cell": (nn.LSTMCell(4, 8), [(2, 4)], (4 * 8) * (4 + 8)),
    "attention": (Call(F.scaled_dot_product_attention), [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)], 3 * 35 * (4 + 6)),
    "einsum": (Call(lambda q, k: torch.einsum("bihd,bjhd->bhij", q, k)), [(2, 5, 3, 4), (2, 7, 3, 4)], 3 * 5 * 7 * 4),
    "einsum with dots": (Call(lambda a, b: torch.einsum("...ij,...jk", a, b)), [(2, 3, 4, 5), (2, 3, 5, 6)], 12 * 30),
    "matmul": (Call(torch.matmul), [(2, 4, 5), (2, 5, 6)], 4 * 5 * 6),
    "baddbmm": (Call(torch.baddbmm), [(2, 4, 6), (2, 4, 5), (2, 5, 6)], 4 * 5 * 6),
    "addmm": (Call(lambda x: torch.addmm(torch.ones(6), x, torch.ones(5, 6))), [(2, 5)], 5 * 6),
    "batch norm": (nn.BatchNorm2d(3), [(2, 3, 4, 4)], 0),
}  # fmt: skip


class Together(nn.Module):
    """All cases in one network, so that there is one capture: case i gets its share of the inputs."""

    def __init__(self):
        super().__init__()
        self.cases = nn.ModuleList(module for module, _, _ in MACS.values())
        self.takes = [len(shapes) for _, shapes, _ in MACS.values()]

    def forward(self, *xs):
        given = iter(xs)
        return [case(*(next(given) for _ in range(n))) for case, n in zip(self.cases, self.takes, strict=True)]


@pytest.fixture(scope="module")
def together() -> Model:
    torch.manual_seed(0)
    return from_module(Together(), tuple(torch.randn(s) for _, shapes, _ in MACS.values() for s in shapes))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("case", MACS)
def test_macs_are_those_by_hand_and_grow_with_the_batch(case, batch, together):
    mine = f"cases.{list(MACS).index(case)}"
    found = [r.macs for r in statistics(together, batch).layers if r.name == mine or r.name.startswith(mine + ".")]
    assert sum(found) == batch * MACS[case][2]


@pytest.mark.slow
def test_macs_of_resnet20_are_the_papers():
    # He et al. 2015, section 4.2, for 28×28 grey images: a 3×3 stem, then three times 6 convolutions at 28², 14², 7²
    # (the first of a stage halves the width), two 1×1 shortcuts, a linear layer.
    stem = 28 * 28 * 16 * 9 * 1
    first = 6 * 28 * 28 * 16 * 16 * 9
    second = 14 * 14 * (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32)
    third = 7 * 7 * (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64)
    assert counted(resnet20(), (2, 1, 28, 28)).macs == stem + first + second + third + 64 * 10


# memory


def test_peak_memory_of_a_chain_is_two_neighbours():
    # 10 → 20 → 5 floats: input and hidden are alive at once (30), then hidden and output (25)
    assert counted(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)), (2, 10)).peak_activation_bytes == 4 * 30


def test_peak_memory_of_a_shortcut_holds_the_shortcut():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(10, 20), nn.Linear(20, 10)

        def forward(self, x):
            return x + self.b(self.a(x))

    # at b: x (10), a's result (20), b's result (10)
    assert counted(Shortcut(), (2, 10)).peak_activation_bytes == 4 * 40


def test_views_and_dropout_take_no_memory():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Unflatten(1, (2, 5)))
    assert counted(net, (2, 10)).peak_activation_bytes == 4 * 10


def test_parts_of_a_split_live_in_what_was_split():
    # x (6 floats) and the sum of its first two thirds (2)
    assert counted(Call(lambda x: x.split(2, 1)[0] + x.split(2, 1)[1]), (2, 6)).peak_activation_bytes == 4 * 8


def test_a_view_keeps_its_source_alive():
    # x (4), relu's result (4, alive through its view), x * 2 (4): at the last operator relu's, x * 2 and the sum
    assert counted(Call(lambda x: x.relu().view(2, 2) + (x * 2).view(2, 2)), (4,)).peak_activation_bytes == 4 * 12


def test_what_follows_from_weights_alone_is_no_activation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(100, 10))

        def forward(self, x):
            return F.linear(x, self.weight.tanh() * 2)[:, :1]

    # x (10), the product (100)
    assert counted(Net(), (2, 10)).peak_activation_bytes == 4 * 110


def test_memory_grows_with_the_batch():
    net = nn.Linear(10, 20)
    assert counted(net, (2, 10), batch=16).peak_activation_bytes == 16 * counted(net, (2, 10)).peak_activation_bytes


# bytes


def test_buffers_are_counted_apart_from_weights():
    counted_ = counted(nn.BatchNorm1d(6), (2, 6))
    assert (counted_.params, counted_.weight_bytes, counted_.buffer_bytes) == (12, 48, 48)


def test_a_tied_weight_counts_once():
    counted_ = statistics(captured("tied").model)
    assert counted_.params == 11 * 6
    assert [r.params for r in counted_.layers if r.operator in ("embedding", "linear")] == [66, 0]


@cache
def linear_layer() -> Model:
    return from_module(nn.Linear(5, 7), torch.randn(2, 5))


def quantized(bits: int) -> Model:
    """A linear layer [7, 5] with quantize and dequantize on its weight."""
    load_quantized_operators()
    model = linear_layer().copy()
    graph = model.graph_module.graph
    weight = next(n for n in model.nodes if n.op == "get_attr" and n.target == "weight")
    linear = next(n for n in model.nodes if n.op == "call_function")
    model.set_tensor("scale", torch.full((7,), 0.1))
    model.set_tensor("zero", torch.zeros(7, dtype=torch.int64))
    low, high = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1
    library = torch.ops.quantized_decomposed
    with graph.inserting_before(linear):
        settings = (graph.get_attr("scale"), graph.get_attr("zero"), 0, low, high, torch.int8)
        q = graph.call_function(library.quantize_per_channel.default, (weight, *settings))
        dq = graph.call_function(library.dequantize_per_channel.default, (q, *settings))
    linear.replace_input_with(weight, dq)
    return model.tidy()


@pytest.mark.parametrize("frozen", [False, True], ids=["master weights", "integers"])
@pytest.mark.parametrize(("bits", "weight_bytes"), [(8, 35), (4, 18), (2, 9)])
def test_a_quantized_weight_takes_its_bits(bits, weight_bytes, frozen):
    model = freeze(quantized(bits)) if frozen else quantized(bits)
    counted_ = statistics(model)
    linear = next(r for r in counted_.layers if r.operator == "linear")
    assert linear.weight_bits == bits
    assert linear.weight_bytes == weight_bytes + 4 * 7
    assert counted_.params == 5 * 7 + 7
    assert counted_.macs == 35


# the model


def test_counting_changes_nothing():
    model = captured("cnn").model.copy().train()
    code = model.graph_module.code
    values = {n.name: n.meta["val"].shape for n in model.nodes if hasattr(n.meta.get("val"), "shape")}
    statistics(model, batch=64)
    assert model.training
    assert model.graph_module.code == code
    assert {n.name: n.meta["val"].shape for n in model.nodes if hasattr(n.meta.get("val"), "shape")} == values


def test_absurd_batches_can_be_counted_without_memory():
    assert statistics(captured("cnn").model, batch=10**6).peak_activation_bytes > 10**9
