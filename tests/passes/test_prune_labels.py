"""Labels through changes of shape, what dies with what, and cuts of small networks: wrong ones are found."""

import numpy as np
import pytest
import torch
from cuts import cut_by
from torch import Tensor, nn
from torch.nn import functional as F

import packlight as pl
from packlight.passes.prune import Groups
from packlight.passes.prune.labels import Axis, Labels, Layout, reshape
from packlight.passes.prune.walk import Labelled, label

AGREES = 1e-9  # rounding of float64; a wrong channel is off by more than WRONG
WRONG = 1e-3


def axis_of(labels: Labels, size: int) -> Axis:
    return Axis(labels.fresh(size))


def turned(layout: Layout, order: tuple[int, ...]) -> Layout:
    to = {a: i for i, a in enumerate(order)}
    axes = [layout[a] for a in order]
    return tuple(x if x is None else Axis(x.labels, tuple(to[p] for p in x.on), x.rows) for x in axes)


# index spaces


def test_an_axis_taken_apart_into_heads_and_widths_and_put_together_is_the_same():
    labels = Labels()
    axis = axis_of(labels, 24)
    apart = reshape(labels, (None, axis), (5, 24), (5, 3, 4, 2))
    (lead, together) = reshape(labels, apart, (5, 3, 4, 2), (5, 24))
    assert lead is None
    assert together is not None
    assert not together.on
    assert together.labels.tolist() == axis.labels.tolist()


def test_what_is_put_together_in_another_order_carries_its_labels_along():
    labels = Labels()
    axis = axis_of(labels, 24)
    apart = reshape(labels, (None, axis), (5, 24), (5, 2, 3, 4))
    (_, together) = reshape(labels, turned(apart, (0, 2, 1, 3)), (5, 3, 2, 4), (5, 24))
    assert together is not None
    assert together.labels.tolist() == axis.labels.reshape(2, 3, 4).transpose(1, 0, 2).ravel().tolist()


def test_splitting_an_axis_makes_a_block_of_equal_rows():
    labels = Labels()
    axis = axis_of(labels, 6)
    heads, width = reshape(labels, (axis,), (6,), (2, 3))
    assert heads is not None
    assert width is not None
    assert width.on == (0,)
    assert width.labels.tolist() == axis.labels.reshape(2, 3).tolist()
    assert [(b.cells.tolist(), b.rows.tolist()) for b in labels.blocks] == [
        (width.labels.tolist(), heads.labels.tolist())
    ]


def test_heads_that_are_repeated_come_apart_into_heads_and_a_spread():
    labels = Labels()
    heads = labels.fresh(4)
    first, second = reshape(labels, (Axis(np.repeat(heads, 3)),), (12,), (4, 3))
    assert first is not None
    assert first.labels.tolist() == heads.tolist()
    assert second is None


def test_a_tile_comes_apart_into_a_spread_and_its_positions():
    labels = Labels()
    positions = labels.fresh(3)
    first, second = reshape(labels, (Axis(np.tile(positions, 2)),), (6,), (2, 3))
    assert first is None
    assert second is not None
    assert second.labels.tolist() == positions.tolist()


def test_two_labelled_axes_in_one_are_a_grid():
    labels = Labels()
    rows, columns = axis_of(labels, 3), axis_of(labels, 4)
    (flat,) = reshape(labels, (rows, columns), (3, 4), (12,))
    assert flat is not None
    (grid,) = labels.grids
    assert grid.cells.tolist() == flat.labels.reshape(3, 4).tolist()
    assert (grid.rows.tolist(), grid.columns.tolist()) == (rows.labels.tolist(), columns.labels.tolist())


# what dies with what


def groups_of(labels: Labels) -> Groups:
    return Groups(Labelled(None, labels, {}, {}))  # type: ignore[arg-type]


def test_a_row_of_a_block_dies_with_its_last_cell_and_its_cells_with_it():
    labels = Labels()
    cells, rows = labels.fresh(2, 3), labels.fresh(2)
    labels.block(cells, rows)
    groups = groups_of(labels)
    assert groups.closure(cells[0].tolist())[rows[0]]
    assert not groups.closure(cells[0, :2].tolist())[rows[0]]
    assert groups.closure([int(rows[1])])[cells[1]].all()


def test_rows_of_a_block_keep_equally_many():
    labels = Labels()
    cells, rows = labels.fresh(2, 3), labels.fresh(2)
    labels.block(cells, rows)
    groups = groups_of(labels)
    assert groups.whole(groups.closure([0])) == "heads or groups of one operator would differ in width"
    assert groups.whole(groups.closure([int(cells[0, 0]), int(cells[1, 2])])) is None
    assert groups.whole(groups.closure(cells[0].tolist())) is None
    assert groups.whole(groups.closure(rows.tolist())) == "no head or group of an operator would be left"


def test_a_cell_that_dies_in_a_living_row_of_a_grid_takes_its_column():
    labels = Labels()
    cells, rows, columns = labels.fresh(3, 4), labels.fresh(3), labels.fresh(4)
    labels.grid(cells, rows, columns)
    groups = groups_of(labels)
    gone = groups.closure([int(cells[1, 2])])
    assert gone[columns].tolist() == [False, False, True, False]
    assert gone[cells[:, 2]].all()
    assert gone.sum() == 4
    assert groups.closure([int(rows[0])]).sum() == 5


# networks


class Views(nn.Module):
    """Sizes as numbers in views, after which channels are the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 12), nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).view(-1, 8, 16).permute(0, 2, 1)
        return self.head(F.gelu(self.mix(y)).reshape(-1, 12 * 16))


class Chunks(nn.Module):
    """A gate: one half of a layer's outputs times the other."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.head = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=-1)
        return self.head(a * torch.sigmoid(b))


class Tied(nn.Module):
    """Words in and words out by one table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class SharedKeys(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, 4, 8).transpose(1, 2)
        k, v = (f(x).view(n, length, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1) for f in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, length, 32)).mean(1)


class Turned(nn.Module):
    """An operator that packlight has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(torch.rot90(self.before(x), 1, (2, 3))).mean((2, 3)))


def weight_normed() -> nn.Module:
    normed = [nn.utils.parametrizations.weight_norm(m) for m in (nn.Linear(6, 12), nn.Linear(12, 8))]
    return nn.Sequential(normed[0], nn.ReLU(), normed[1], nn.Tanh(), nn.Linear(8, 3))


def grouped() -> nn.Module:
    convs = [nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, groups=4), nn.ReLU()]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3))


IMAGE, ROWS, SERIES = torch.randn(2, 3, 4, 4), torch.randn(2, 6), torch.randn(2, 7, 6)
NETWORKS = {
    "views": (Views, IMAGE), "chunks": (Chunks, ROWS), "tied": (Tied, torch.randint(0, 20, (2, 7))),
    "recurrent": (Recurrent, SERIES), "shared_keys": (SharedKeys, torch.randn(2, 7, 16)),
    "weight_normed": (weight_normed, ROWS), "grouped": (grouped, IMAGE), "turned": (Turned, IMAGE),
}  # fmt: skip
CUTTABLE = [name for name in NETWORKS if name != "turned"]


@pytest.fixture(scope="module")
def models() -> dict[str, pl.Model]:
    torch.manual_seed(0)
    return {name: pl.load(make().eval(), (x,), name=name) for name, (make, x) in NETWORKS.items()}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CUTTABLE)
def test_a_cut_network_is_the_masked_one(models, name, training):
    found = cut_by(models[name])
    # weight norm's lengths are multiplied in float32
    assert found.off(training=training) < (1e-6 if name == "weight_normed" else AGREES)


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_cut_of_other_units_is_found(models, name):
    assert cut_by(models[name], seed=0).off(alive=cut_by(models[name], seed=1).alive) > WRONG


@pytest.mark.parametrize("name", CUTTABLE)
def test_weights_that_are_one_position_off_are_found(models, name):
    found = cut_by(models[name])
    matrices = [p for p in found.small.parameters() if p.dim() == 2 and p.shape[1] > 1]
    with torch.no_grad():
        matrices[-1].copy_(matrices[-1].roll(1, 1))
    assert found.off() > WRONG


def test_sizes_in_views_follow_at_every_batch_size(models):
    small = cut_by(models["views"]).small
    assert small.flat(torch.randn(5, 3, 4, 4))[0].shape == (5, 5)


def test_groups_of_a_convolution_lose_equally_many_but_not_the_same_positions(models):
    found = cut_by(models["grouped"])
    layout = next(v for n, v in found.reference.layouts.items() if n.op == "get_attr" and n.target == "2.weight")
    living = [row for row in found.alive[layout[0].labels].reshape(4, 6).tolist() if any(row)]
    assert [sum(row) for row in living] == [3, 3]  # of four groups, two go whole
    assert living[0] != living[1]
    assert found.shapes()["2.weight"] == (6, 2, 3, 3)


def test_halves_of_a_gate_lose_the_same_positions(models):
    found = cut_by(models["chunks"])
    layout = next(v for n, v in found.reference.layouts.items() if n.op == "get_attr" and n.target == "both.weight")
    first, second = found.alive[layout[0].labels].reshape(2, 8)
    assert first.tolist() == second.tolist()
    assert found.shapes()["both.weight"] == (8, 6)


def test_gates_of_a_recurrent_layer_lose_the_same_units(models):
    shapes = cut_by(models["recurrent"]).shapes()
    assert shapes["cell.weight_ih_l0"] == (16, 6)
    assert shapes["cell.weight_hh_l1"] == (16, 4)
    assert shapes["head.weight"] == (3, 4)


def test_heads_of_queries_go_with_the_keys_that_they_share(models):
    shapes = cut_by(models["shared_keys"]).shapes()
    assert shapes["q.weight"][0] == 2 * shapes["k.weight"][0]
    assert shapes["q.weight"][0] < 32


def test_tied_weights_stay_one_tensor(models):
    shapes = cut_by(models["tied"]).shapes()
    assert [shape for shape in shapes.values() if 20 in shape] == [(20, 4)]


def test_normed_weights_keep_their_values(models):
    found = cut_by(models["weight_normed"])
    name = next(n for n, p in found.small.named_parameters() if p.dim() == 2 and p.shape[0] < 8 and p.shape[1] > 1)
    gain = name.replace("original1", "original0")
    whole, small = (
        {n: t.detach() for n, t in m.named_tensors().items()} for m in (models["weight_normed"], found.small)
    )
    before, after = (torch._weight_norm(t[name], t[gain], 0) for t in (whole, small))
    layout = next(v for n, v in found.reference.layouts.items() if n.op == "get_attr" and n.target == name)
    rows, columns = (np.flatnonzero(found.alive[axis.labels]) for axis in layout)
    torch.testing.assert_close(after, before[np.ix_(rows, columns)])


def test_an_operator_without_a_rule_freezes_what_it_touches_and_is_listed(models):
    labelled = label(models["turned"].copy())
    groups = Groups(labelled)
    assert list(labelled.unruled.values()) == ["rot90"]
    assert groups.frozen["before"] == "packlight has no rule for rot90 at rot90"
    assert [f.name for f in groups.families] == ["after"]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_the_network_are_never_cut(models, name):
    groups = Groups(label(models[name].copy()))
    found = cut_by(models[name], share=0.9)
    inputs = models[name].example_inputs()
    assert [y.shape for y in found.small.flat(*inputs)] == [y.shape for y in models[name].flat(*inputs)]
    assert name == "tied" or "an output of the network" in groups.frozen.values()
