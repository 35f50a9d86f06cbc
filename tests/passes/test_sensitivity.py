"""Every measure against the same number computed in another way, and the table that is kept on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.passes.quantize.mixed import damages
from packlight.passes.sensitivity.change import DIVERGENCE, SQUARED, Changes, distance_for
from packlight.passes.sensitivity.service import MEASURES, Measuring, sensitivity
from packlight.passes.sensitivity.table import weight_of, weighted
from packlight.task import Task
from packlight.train.losses import task_loss

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, generator=GENERATOR)
Y = torch.randint(0, 4, (24,), generator=GENERATOR)
BATCHES = [((X[:16],), Y[:16]), ((X[16:],), Y[16:])]
ALONE = [((x[None],), y[None]) for x, y in zip(X, Y, strict=True)]
LOSS = task_loss("cross_entropy")


def make(activation: nn.Module) -> pl.Model:
    torch.manual_seed(1)
    return pl.load(nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 4)), torch.zeros(2, 3), name="net")


@pytest.fixture(scope="module")
def net() -> pl.Model:
    return make(nn.Tanh())


def values(net: pl.Model, measure: str, data: list = BATCHES, **how: int) -> list[float]:
    return [r.value for r in sensitivity(net, data, Measuring(measure, **how), LOSS).layers]


def weights(net: pl.Model) -> list[Tensor]:
    return [net.named_tensors()[f"{i}.weight"] for i in (0, 2)]


def test_removal_is_what_zeros_in_place_of_a_weight_do(net: pl.Model) -> None:
    wanted, found = net(X).detach(), []
    for name in ("0.weight", "2.weight"):
        twin = net.copy()
        twin.set_tensor(name, torch.zeros_like(net.named_tensors()[name]))
        found.append(float((twin(X).detach() - wanted).square().sum() / wanted.square().sum()))
    assert values(net, "removal") == pytest.approx(found, rel=1e-5)


def test_the_gradient_is_that_of_the_loss_over_all_samples(net: pl.Model) -> None:
    found = torch.autograd.grad(F.cross_entropy(net(X), Y), weights(net))
    wanted = [float((g * w.detach()).abs().sum()) for g, w in zip(found, weights(net), strict=True)]
    assert values(net, "gradient") == pytest.approx(wanted, rel=1e-4)


def test_fisher_is_the_mean_squared_gradient_of_single_samples(net: pl.Model) -> None:
    wanted = np.zeros(2)
    for x, y in zip(X, Y, strict=True):
        found = torch.autograd.grad(F.cross_entropy(net(x[None]), y[None]), weights(net))
        wanted += [float(g.square().sum()) / len(X) for g in found]
    assert values(net, "fisher", ALONE) == pytest.approx(list(wanted), rel=1e-4)


def exact(net: pl.Model, i: int) -> Tensor:
    """The diagonal of the loss's Hessian for one weight."""
    first, second = (w.detach() for w in weights(net))
    bias = [net.named_tensors()[f"{k}.bias"].detach() for k in (0, 2)]

    def loss(w: Tensor) -> Tensor:
        a, b = (w.reshape(first.shape), second) if i == 0 else (first, w.reshape(second.shape))
        return F.cross_entropy(F.linear(torch.tanh(F.linear(X, a, bias[0])), b, bias[1]), Y)

    return torch.autograd.functional.hessian(loss, (first, second)[i].flatten()).diagonal()


def test_the_trace_of_the_hessian_lies_within_its_standard_error(net: pl.Model) -> None:
    found = sensitivity(net, BATCHES, Measuring("hessian", probes=400), LOSS).layers
    for i, row in enumerate(found):
        trace, error = float(exact(net, i).sum()), row.detail["standard_error"]
        assert abs(row.value - trace) < 4 * error
        assert error < 0.1 * abs(trace), "a trace that is a tenth off would be seen"
        removal = float((exact(net, i) * weights(net)[i].detach().flatten().square()).sum()) / 2
        assert row.detail["removal"] == pytest.approx(removal, abs=0.2 * abs(removal) + 0.01)


def test_signs_of_a_seed_are_the_same_and_of_another_are_not(net: pl.Model) -> None:
    one = values(net, "hessian", probes=2)
    assert values(net, "hessian", probes=2) == one != values(net, "hessian", probes=2, seed=1)


def test_statistics_are_those_of_all_values_at_once(net: pl.Model) -> None:
    first, second = (w.detach() for w in weights(net))
    hidden = torch.tanh(F.linear(X, first, net.named_tensors()["0.bias"].detach()))
    assert values(net, "inputs") == pytest.approx([float(v.square().mean()) for v in (X, hidden)], rel=1e-5)
    given = F.linear(hidden, second, net.named_tensors()["2.bias"].detach())
    row = sensitivity(net, BATCHES, Measuring("activations")).layers[1]
    ends = {"mean": given.mean(), "deviation": given.std(correction=0), "min": given.min(), "max": given.max()}
    assert dict(row.detail) == pytest.approx({k: float(v) for k, v in ends.items()}, rel=1e-4, abs=1e-6)
    far = (given - given.mean()).abs().max() / given.std(correction=0)
    assert row.value == pytest.approx(float(far), rel=1e-4)


def test_quantization_is_the_table_that_mixed_precision_goes_by(net: pl.Model) -> None:
    how = Measuring("quantization")
    table = damages(net, list(weighted(net).values()), how.form, [x for x, _ in BATCHES])
    found = sensitivity(net, BATCHES, how).layers
    assert [r.value for r in found] == pytest.approx([d.change[4] for d in table])
    assert [r.detail["2 bits"] for r in found] == pytest.approx([d.change[2] for d in table])


def test_a_change_beside_others_is_that_of_all_together(net: pl.Model) -> None:
    changes = Changes(net, [x for x, _ in BATCHES])
    one, other = weighted(net).values()
    half, double = net.tensor(weight_of(one)).detach() / 2, net.tensor(weight_of(other)).detach() * 2
    beside = changes.single({other: {"": lambda: double}}, {one: half, other: double / 2})
    assert beside[other][""] == pytest.approx(changes.whole({one: half, other: double}))
    assert beside[other][""] != pytest.approx(changes.single({other: {"": lambda: double}})[other][""])


def test_the_divergence_of_class_probabilities_is_that_of_the_paper() -> None:
    wanted, found = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.75, 0.0]]).log()
    assert DIVERGENCE.between([found], [wanted]) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert DIVERGENCE.between([wanted + 7], [wanted]) == pytest.approx(0, abs=1e-12)
    assert DIVERGENCE.size([torch.zeros(2, 3, 4)]) == 8


def test_outputs_are_compared_by_what_the_task_decides(net: pl.Model) -> None:
    assert distance_for(Task(), net) is DIVERGENCE
    assert distance_for(Task(loss="mse", metric="mse"), net) is SQUARED
    one = pl.load(nn.Linear(3, 1), torch.zeros(2, 3))
    assert distance_for(Task(), one) is SQUARED, "the probability of one class is always 1"


def counted(net: pl.Model, folder: Path, data: list = BATCHES) -> Iterator[int]:
    """Runs of the loss in each call, with a cache."""
    runs = 0

    def loss(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return LOSS(outputs, targets)

    while True:
        sensitivity(net, data, Measuring("gradient"), loss, loss_name="cross_entropy", cache=folder)
        yield runs


def test_an_answer_is_computed_once_and_a_damaged_one_again(net: pl.Model, tmp_path: Path) -> None:
    runs = counted(net, tmp_path)
    assert [next(runs), next(runs)] == [2, 2]
    (kept,) = (tmp_path / "sensitivity").iterdir()
    whole = kept.read_text()
    for damaged in ("", "{", "[]", '{"key": 1}', whole.replace('"value": 0', '"value": 1'), whole.replace("net", "n")):
        if damaged == whole:
            continue
        kept.write_text(damaged)
        before = next(counted(net, tmp_path))
        assert before == 2, damaged[:40]
        assert kept.read_text() == whole


def test_other_data_and_other_operators_are_other_answers(net: pl.Model, tmp_path: Path) -> None:
    next(counted(net, tmp_path))
    assert next(counted(net, tmp_path, BATCHES[:1])) == 1
    twin = make(nn.Sigmoid())
    assert twin.fingerprint() == net.fingerprint()
    assert next(counted(twin, tmp_path)) == 2


def test_a_loss_without_a_name_and_a_folder_that_cannot_be_are_not_kept(net: pl.Model, tmp_path: Path) -> None:
    sensitivity(net, BATCHES, Measuring("gradient"), LOSS, cache=tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert sensitivity(net, BATCHES, Measuring("inputs"), cache=tmp_path / "file").layers


@pytest.mark.parametrize("measure", MEASURES)
def test_a_network_is_as_it_was(net: pl.Model, measure: str) -> None:
    before = net.fingerprint()
    assert all(math.isfinite(v) for v in values(net, measure))
    assert net.fingerprint() == before
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"measure": "guess"}, "no measure 'guess'; choose removal, "),
        ({"measure": "hessian", "probes": 0}, "probes >= 1, got 0"),
        ({"measure": "fisher", "unlabelled": True}, "needs targets; the data has none"),
        ({"measure": "hessian", "unlabelled": True}, "needs targets; the data has none"),
        ({"measure": "gradient", "loss": None}, "needs a task with a loss"),
        ({"measure": "inputs", "data": []}, "needs data; there is none"),
    ],
    ids=lambda given: given["measure"] if isinstance(given, dict) else "",
)
def test_what_cannot_be_measured_is_said(net: pl.Model, given: dict, told: str) -> None:
    data = given.get("data", [(x, None) for x, _ in BATCHES] if given.get("unlabelled") else BATCHES)
    with pytest.raises(PacklightError, match=told):
        sensitivity(net, data, Measuring(given["measure"], given.get("probes", 1)), given.get("loss", LOSS))


def test_a_network_without_weights_and_a_quantized_one_are_refused() -> None:
    bare = pl.load(nn.ReLU(), torch.zeros(2, 3))
    with pytest.raises(PacklightError, match="no linear layer or convolution"):
        sensitivity(bare, BATCHES, Measuring("inputs"))
    small = pl.quantize(make(nn.ReLU()), Task(calibration=X.numpy()))
    with pytest.raises(PacklightError, match="is quantized"):
        sensitivity(small, BATCHES, Measuring("inputs"))
