"""Shared weights: the pass on Models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_tasks import digits, trained, untrained
from torch import nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.codebooks import lookups
from packlight.passes.codebooks import Codebooks, input_moments, share_weights
from packlight.train import Fit


def weights(model: pl.Model) -> dict[str, torch.Tensor]:
    """What the lookups of a Model give, by the name of the index."""
    found: dict[str, torch.Tensor] = {}

    class Run(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if n in named:
                found[named[n]] = value.detach()
            return value

    named = {node: str(lookup.index.target).removesuffix("_index") for node, lookup in lookups(model).items()}
    Run(model.graph_module).run(*model.example_inputs())
    return found


OPTIONS = {
    "layer": Codebooks(),
    "density": Codebooks(bits=3, init="density"),
    "random": Codebooks(bits=3, init="random", seed=3),
    "global": Codebooks(scope="global"),
    "channel": Codebooks(bits=2, scope="channel", group=3),  # 16 channels: five tables of three and one of one
    "powers": Codebooks(kind="powers", bits=3),
    "binary": Codebooks(kind="binary"),
    "ternary": Codebooks(kind="ternary"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_weight_is_the_nearest_of_the_few_values_of_its_table(options: Codebooks) -> None:
    model = untrained()
    before = {n: t.clone() for n, t in model.named_tensors().items()}
    small = share_weights(model, options)
    made = weights(small)
    assert {"body.weight", "head.weight"} <= set(made)
    for name, value in made.items():
        group = {"layer": len(value), "global": len(value), "channel": options.group}[options.scope]
        group = group if options.kind == "kmeans" else 1
        for rows, given in zip(value.split(group), before[name].split(group), strict=True):
            table = rows.unique()
            assert len(table) <= 2**options.default
            if options.kind == "kmeans":
                nearest = (given[..., None] - table).abs().min(-1).values
                assert torch.allclose((given - rows).abs(), nearest, atol=1e-6)
    assert all(torch.equal(before[n], t) for n, t in model.named_tensors().items()), "the input was changed"
    assert small.lineage[-1].name == "share_weights" and small.lineage[-1].options["kind"] == options.kind
    again = share_weights(model, options)
    assert again.fingerprint() == small.fingerprint()


def test_one_table_for_the_network_is_one_parameter() -> None:
    small = share_weights(untrained(), Codebooks(scope="global"))
    tables = [n for n, _ in small.named_parameters() if "table" in n]
    assert tables == ["shared_table"] and len(lookups(small)) >= 2
    assert len(torch.cat([w.flatten() for w in weights(small).values()]).unique()) <= 16


def test_fixed_grids_are_those_of_their_papers() -> None:
    model = untrained()
    w = model.named_tensors()["body.weight"].detach()
    size = w.abs().flatten(1)

    made = weights(share_weights(model, Codebooks(kind="binary")))["body.weight"]
    alpha = size.mean(1).reshape(-1, 1, 1, 1)
    assert torch.allclose(made, torch.where(w >= 0, alpha, -alpha))

    made = weights(share_weights(model, Codebooks(kind="ternary")))["body.weight"]
    for row, given in zip(made, w, strict=True):
        kept = given.abs() > 0.7 * given.abs().mean()
        assert torch.allclose(row, given.sign() * kept * given.abs()[kept].mean())

    made = weights(share_weights(model, Codebooks(kind="powers", bits=4)))["body.weight"]
    for row, given in zip(made, w, strict=True):
        steps = torch.log2(row[row != 0].abs() / row.abs().max())
        assert torch.allclose(steps, steps.round(), atol=1e-4) and steps.min() >= -6
        assert (
            row - given
        ).norm() < 0.25 * given.norm()  # steps of a factor of two: a third off at most, twice as rare


def test_statistics_count_packed_indices_and_tables() -> None:
    model = untrained()
    small = share_weights(model, Codebooks(bits=3, layers={"head": 5}))
    counted, plain = ({r.name: r for r in pl.statistics(m).layers} for m in (small, model))
    assert counted["body"].weight_bytes == 16 * 16 * 9 * 3 // 8 + 8 * 4 + 16 * 4, "indices, table, bias"
    assert counted["body"].weight_bits == 3 and counted["head"].weight_bits == 5
    assert counted["body"].params == plain["body"].params and counted["body"].macs == plain["body"].macs
    assert list(counted) == list(plain), "lookups are no layers"
    ternary = {r.name: r for r in pl.statistics(share_weights(model, Codebooks(kind="ternary"))).layers}
    assert ternary["body"].weight_bytes == 16 * 16 * 9 * 2 // 8 + 16 * 4 + 16 * 4, "indices, factors, bias"


def test_where_channels_are_cut_off_the_indices_lookups_stay_lookups() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))
    small = share_weights(pl.load(net, torch.zeros(2, 32)), Codebooks(bits=3))
    cut = pl.prune(small, keep=0.5)
    assert cut.named_tensors()["2.weight_index"].shape[0] < 24
    assert len(lookups(cut)) == len(lookups(small)) == 3
    assert 0.1 < pl.statistics(cut).weight_bytes / pl.statistics(small).weight_bytes < 0.7


def test_excluded_layers_and_those_that_gain_nothing_stay_as_they_are() -> None:
    model = untrained()
    small = share_weights(model, Codebooks(bits=8, exclude=("head",)))
    for name in ("head.weight", "stem.weight"):
        assert torch.equal(small.named_tensors()[name], model.named_tensors()[name])
    assert "head stays in float: excluded by name" in small.notes
    assert "stem stays in float: its table would take what sharing saves" in small.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "takes 1 to 8 bits, got 0"),
        ({"bits": 9}, "takes 1 to 8 bits, got 9"),
        ({"bits": 2.5}, "takes 1 to 8 bits, got 2.5"),
        ({"kind": "powers", "bits": 1}, "takes 2 to 8 bits, got 1"),
        ({"kind": "binary", "bits": 4}, "binary weights have 1 bits; leave bits"),
        ({"kind": "kmean"}, "kind 'kmean': choose kmeans, powers, binary, ternary"),
        ({"scope": "row"}, "scope 'row': choose global, layer, channel"),
        ({"init": "zero"}, "init 'zero': choose linear, density, random"),
        ({"group": 0}, "1 or more; got 0"),
        ({"scope": "global", "layers": {"head": 2}}, "leave layers out"),
        ({"exclude": "hed"}, "no layer matches 'hed'; did you mean head"),
        ({"exclude": "*"}, "has no weights to share .*excluded by name"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict, message: str) -> None:
    with pytest.raises(PacklightError, match=message) as error:
        pl.share_weights(untrained(), **options)
    assert "\n" not in str(error.value)


def test_what_is_quantized_or_shared_already_is_refused() -> None:
    with pytest.raises(PacklightError, match="quantized already; share the weights of its float version"):
        share_weights(pl.quantize(untrained(), digits(), samples=32))
    with pytest.raises(PacklightError, match="has shared weights already"):
        share_weights(share_weights(untrained()))
    bare = pl.load(nn.ReLU(), torch.zeros(2, 3))
    with pytest.raises(PacklightError, match=r"has no weights to share \(no layer fits\)"):
        share_weights(bare)


def test_gradients_of_weights_that_share_a_value_add_up() -> None:
    model = untrained()
    small = share_weights(model, Codebooks(bits=2))
    dense = model.copy()
    for name, value in weights(small).items():
        dense.set_tensor(name, value, trainable=True)
    x = torch.from_numpy(digits().train.inputs[0][:16])
    for m in (small, dense):
        m.flat(x)[0].square().sum().backward()
    gradient = dict(dense.named_parameters())["body.weight"].grad
    index = small.named_tensors()["body.weight_index"]
    summed = torch.stack([gradient[index == i].sum() for i in range(4)])
    assert torch.allclose(dict(small.named_parameters())["body.weight_table"].grad, summed, rtol=1e-3, atol=1e-3)


def test_training_moves_the_table_keeps_the_indices_and_wins_back_accuracy() -> None:
    small = share_weights(trained(), Codebooks(bits=1))
    made = pl.finetune(small, digits(), options=Fit(epochs=2, learning_rate=1e-3))
    before, after = small.named_tensors(), made.named_tensors()
    assert torch.equal(before["body.weight_index"], after["body.weight_index"])
    assert not torch.equal(before["body.weight_table"], after["body.weight_table"])
    scores = [pl.measure(m, digits(), split="validation")["quality"].value for m in (small, made)]
    assert scores[1] > scores[0] + 2


def test_fixed_grids_train_their_factors_and_stay_on_the_grid() -> None:
    small = share_weights(trained(), Codebooks(kind="ternary"))
    made = pl.finetune(small, digits(), options=Fit(epochs=1, learning_rate=1e-3))
    before, after = weights(small)["body.weight"], weights(made)["body.weight"]
    assert torch.equal(before == 0, after == 0) and not torch.equal(before, after)
    assert all(len(row.abs().unique()) <= 2 for row in after)


@pytest.mark.parametrize("scope", ["layer", "channel", "global"])
def test_weights_that_pruning_made_zero_stay_zero_in_training_too(scope: str) -> None:
    model = trained().copy()
    for name in ("body.weight", "head.weight"):
        w = model.named_tensors()[name].detach()
        model.set_tensor(name, w * (w.abs() > w.abs().median()), trainable=True)
    small = share_weights(model, Codebooks(bits=3, scope=scope, group=4))
    made = pl.finetune(small, digits(), options=Fit(epochs=0.5, learning_rate=1e-3))
    for found in (weights(small), weights(made)):
        for name in ("body.weight", "head.weight"):
            zero = model.named_tensors()[name] == 0
            assert zero.float().mean() >= 0.5 and not found[name][zero].any()
            assert found[name][~zero].count_nonzero() > 0.8 * (~zero).sum()
    lost = share_weights(model, Codebooks(kind="binary")).notes
    assert "body had weights of 0 by pruning; binary weights have none" in lost


def test_weighing_by_the_inputs_lowers_the_weighted_error() -> None:
    model, task = trained(), digits()
    counts = input_moments(model, [(torch.from_numpy(task.calibration.inputs[0]),)])
    plain, weighed = (share_weights(model, Codebooks(bits=2), c) for c in (None, counts))
    assert weighed.lineage[-1].options["importance"] is True
    for name, count in counts.items():
        assert count.shape == model.named_tensors()[name].shape and float(count.mean()) == pytest.approx(1, rel=1e-4)
    name = "head.weight"
    errors = [
        float((counts[name] * (weights(m)[name] - model.named_tensors()[name]).square()).sum().detach())
        for m in (plain, weighed)
    ]
    assert errors[1] < 0.99 * errors[0]
    with pytest.raises(PacklightError, match="ternary weights take no data"):
        pl.share_weights(model, task, kind="ternary")


class Mixed(nn.Module):
    """A table tied to the head, a recurrent layer, a transposed convolution and a product with a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.cell = nn.LSTM(24, 24, batch_first=True)
        self.up = nn.ConvTranspose1d(24, 24, 4, stride=2)
        self.mix = nn.Parameter(torch.randn(24, 24) * 0.2)

    def forward(self, ids):
        x = self.cell(self.words(ids))[0]
        x = self.up(x.transpose(1, 2)).transpose(1, 2) @ self.mix
        return x @ self.words.weight.t()


@pytest.mark.parametrize(
    ("options", "limit"),  # a step of 2^−bits of the range, through five layers
    [(Codebooks(bits=6), 0.1), (Codebooks(bits=4, scope="channel", group=8), 0.25)],
)
def test_tables_recurrent_layers_and_tied_weights_are_shared_and_survive_the_file(options, limit, tmp_path) -> None:
    torch.manual_seed(0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (4, 7)))
    model = pl.load(Mixed().eval(), ids)
    small = share_weights(model, options)
    assert set(weights(small)) == {"words.weight", "cell.weight_ih_l0", "cell.weight_hh_l0", "up.weight", "mix"}
    got, wanted = small(ids).detach(), model(ids).detach()
    assert 0 < (got - wanted).norm() < limit * wanted.norm()
    assert torch.equal(pl.Model.load(small.save(tmp_path / "small.plm"))(ids), small(ids))
    assert pl.statistics(small).weight_bytes < 0.3 * pl.statistics(model).weight_bytes
