"""The head: found on the graph, given other classes, parted from the network below."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.train import Fit, fit
from packlight.train.head import head_of, replace_head
from packlight.train.parts import features_of, head_alone, without_softmax

IMAGES = (torch.zeros(2, 1, 8, 8),)


class Functional(nn.Module):
    """A head written in forward: `call(x, weight, bias)` of flattened 8×8 images."""

    def __init__(self, call: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.call, self.weight, self.bias = call, nn.Parameter(torch.randn(*shape)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x.flatten(1), self.weight, self.bias)


class Reads(nn.Module):
    """A small transformer: tokens [n, 5] and a mask [n, 5] → 6 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.classify = nn.Linear(8, 6)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.layer(self.embedding(tokens)) * mask[..., None]
        x = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.classify(x)


class Tied(nn.Module):
    """Scores by likeness to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.embedding(tokens).mean(1), self.embedding.weight)


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)).reshape(-1, 6)


class Several(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Linear(64, 6), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Any:
        a, b = self.a(x.flatten(1)), self.b(x.flatten(1))
        return {"sum": a + b, "both": (a, b), "class": a.argmax(1), "normed": F.layer_norm(a + 0, (6,))}[self.how]


def convolution(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *after)


def loaded(net: nn.Module, *inputs: Tensor) -> pl.Model:
    return pl.load(net, inputs or IMAGES)


TOKENS = (torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5))
FINDS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], str]] = {
    "linear after convolutions": (lambda: convolution(nn.Flatten(), nn.Linear(144, 6)), IMAGES, "4"),
    "dropout before": (lambda: convolution(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 6)), IMAGES, "5"),
    "softmax behind": (lambda: convolution(nn.Flatten(), nn.Linear(144, 6), nn.Softmax(1)), IMAGES, "4"),
    "log-softmax behind": (lambda: convolution(nn.Flatten(), nn.Linear(144, 6), nn.LogSoftmax(-1)), IMAGES, "4"),
    "no bias": (lambda: convolution(nn.Flatten(), nn.Linear(144, 6, bias=False)), IMAGES, "4"),
    "convolution, pooled": (
        lambda: convolution(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)),
        IMAGES, "3",
    ),
    "two inputs": (Reads, TOKENS, "classify"),
    "linear alone": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), IMAGES, "1"),
    "addmm": (lambda: Functional(lambda x, w, b: torch.addmm(b, x, w), 64, 6), IMAGES, "addmm"),
    "product and sum": (lambda: Functional(lambda x, w, b: x @ w + b, 64, 6), IMAGES, "matmul"),
    "transposed": (lambda: Functional(lambda x, w, b: x @ w.t() + b, 6, 64), IMAGES, "matmul"),
}  # fmt: skip


@functools.cache
def found(name: str) -> pl.Model:
    torch.manual_seed(0)
    make, inputs, _ = FINDS[name]
    return loaded(make(), *inputs)


@pytest.fixture(scope="module", params=FINDS)
def case(request: pytest.FixtureRequest) -> tuple[pl.Model, str]:
    return found(request.param), FINDS[request.param][2]


def test_the_head_is_found_and_its_outputs_are_the_new_classes(case: tuple[pl.Model, str]) -> None:
    model, layer = case
    assert head_of(model).layer == layer
    made = replace_head(model, 9)
    x = made.example_inputs(batch=3)
    assert made(*x).shape == (3, 9) and made.outputs[0].shape == ("batch", 9)
    assert made.named_tensors().keys() == model.named_tensors().keys()
    assert model(*x).shape == (3, 6)


def test_below_the_head_nothing_changes(case: tuple[pl.Model, str]) -> None:
    model, _ = case
    made, head = replace_head(model, 9), head_of(model)
    mine, theirs = made.named_tensors(), model.named_tensors()
    assert [n for n in theirs if mine[n].shape != theirs[n].shape] == sorted(head.tensors, key=list(theirs).index)
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs if n not in head.tensors)


def test_features_then_head_is_the_network(case: tuple[pl.Model, str]) -> None:
    model, _ = case
    x = model.example_inputs(batch=3)
    assert torch.equal(head_alone(model)(features_of(model)(*x)), model(*x))


def test_features_come_before_the_dropout_that_the_head_keeps() -> None:
    model = found("dropout before")
    alone = head_alone(model)
    assert [n.name for n in alone.nodes if "modes" in n.meta] == ["dropout"]
    assert set(alone.named_tensors()) == {"5.weight", "5.bias"}


@pytest.mark.parametrize("name", ["softmax behind", "log-softmax behind", "convolution, pooled"])
def test_scores_are_what_stands_before_the_softmax(name: str) -> None:
    model = found(name)
    x = model.example_inputs(batch=3)
    assert without_softmax(model)(*x).shape == (3, 6)
    told = torch.log_softmax if name.startswith("log") else torch.softmax
    torch.testing.assert_close(told(without_softmax(model)(*x), 1), model(*x))  # one rounding


def test_without_a_softmax_the_scores_are_the_output() -> None:
    model = found("two inputs")
    x = model.example_inputs(batch=3)
    assert torch.equal(without_softmax(model)(*x), model(*x))


def test_a_head_is_drawn_by_its_seed_alone() -> None:
    model = found("linear after convolutions")
    state = torch.get_rng_state()
    one, same, other = (replace_head(model, 4, seed).named_tensors()["4.weight"] for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert 0.9 / 12 < float(one.detach().abs().max()) <= 1 / 12  # U(−1/√144, 1/√144)
    assert float(replace_head(model, 4).named_tensors()["4.bias"].detach().abs().sum()) == 0


def test_the_lineage_has_the_new_head(tmp_path: Any) -> None:
    made = replace_head(found("two inputs"), 4, seed=3)
    assert made.lineage[-1].name == "replace_head"
    assert dict(made.lineage[-1].options) == {"layer": "classify", "classes": 4, "seed": 3}
    again = pl.Model.load(made.save(tmp_path / "new.plm"))
    x = made.example_inputs(batch=3)
    assert torch.equal(again(*x), made(*x)) and head_of(again).layer == "classify"
    assert replace_head(again, 5)(*x).shape == (3, 5)


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], str]] = {
    "several outputs": (lambda: Several("both"), IMAGES, "has 2 outputs"),
    "a class, no scores": (lambda: Several("class"), IMAGES, r"gives int64\[batch\]; .* float scores \[n, classes\]"),
    "a sum of two": (lambda: Several("sum"), IMAGES, "comes from add .* there is no head"),
    "a norm behind": (lambda: Several("normed"), IMAGES, "comes from layer_norm"),
    "no weights": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), IMAGES, "comes from placeholder|from flatten"),
    "maps": (lambda: convolution(nn.Conv2d(4, 6, 1)), IMAGES, r"float scores \[n, classes\]"),
    "a wide convolution": (lambda: convolution(nn.Conv2d(4, 6, 6), nn.Flatten()), IMAGES, "comes from conv2d"),
    "flattened places": (lambda: convolution(nn.Conv2d(4, 6, 1), nn.Flatten()), IMAGES, "6 values, the network 216"),
    "tied to an embedding": (Tied, TOKENS[:1], "'embedding.weight' is shared with embedding"),
    "a size of six": (Sized, IMAGES, "written for its old number of classes"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "inputs", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_head_of_its_own_is_refused(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], message: str
) -> None:
    with pytest.raises(PacklightError, match=message):
        replace_head(loaded(make(), *inputs), 4)


def test_a_quantized_network_is_refused() -> None:
    from small_tasks import digits

    from packlight.passes.quantize import quantize
    from packlight.targets import get

    model = loaded(convolution(nn.Flatten(), nn.Linear(144, 10)))
    quantized = quantize(model, digits(), get("onnxruntime").numerics)
    with pytest.raises(PacklightError, match="is quantized: transfer the float network"):
        replace_head(quantized, 4)


@pytest.mark.parametrize("classes", [1, 0, 2.5, True], ids=repr)
def test_a_head_needs_two_classes(classes: Any) -> None:
    with pytest.raises(PacklightError, match="whole number of classes >= 2"):
        replace_head(found("linear alone"), classes)


def test_a_part_trains_as_any_model() -> None:
    from small_tasks import digits

    model = loaded(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)))
    made = fit(without_softmax(model), digits(), Fit(epochs=0.1))
    assert made.named_tensors().keys() == model.named_tensors().keys()
