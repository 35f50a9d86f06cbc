"""Two small networks for the contracts, and ways to look at Models that the contracts share."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.measure.parity import Difference, difference
from packlight.model import Model
from packlight.sources import from_module
from packlight.task import Task
from packlight.task.data import ArrayData


class Convolutions(nn.Module):
    """Batch norm, a residual addition, depthwise convolution, pooling, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = nn.functional.max_pool2d(torch.relu(x + self.block(x)), 2)
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Attention(nn.Module):
    """Layer norm, one attention over a second input as mask, linear layers on three axes, and two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 8**0.5 + mask.unsqueeze(1)).softmax(-1)
        states = tokens + self.out(weights @ v)
        return {"logits": self.head(states.mean(1)), "states": states}


@functools.cache
def _made() -> tuple[Model, ...]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions, attention = Convolutions().eval(), Attention().eval()
        for module in convolutions.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return (
            from_module(convolutions, torch.randn(2, 3, 8, 8), name="convolutions"),
            from_module(attention, (torch.randn(2, 5, 8), torch.randn(2, 5)), name="attention"),
        )


def models() -> tuple[Model, ...]:
    """Fresh copies of both networks, batch dynamic, in eval mode."""
    return tuple(model.copy() for model in _made())


def random_task(model: Model, samples: int = 64) -> Task:
    """A task with random calibration data that fits the model's inputs."""
    size = {"batch": samples} if "batch" in model.dims else {}
    return Task("random", calibration=ArrayData(tuple(x.numpy() for x in model.example_inputs(seed=1, **size))))


def inputs_of(model: Model, batch: int) -> tuple[Any, ...]:
    """Random inputs as numpy arrays; the batch is what the network insists on where it is not dynamic."""
    size = {"batch": batch} if "batch" in model.dims else {}
    return tuple(x.numpy() for x in model.example_inputs(seed=2, **size))


def content(model: Model) -> bytes:
    """Everything that a Model is made of, as the bytes of its file."""
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        return model.save(Path(folder) / "model.plm").read_bytes()


def worst(got: Sequence[Any], wanted: Sequence[Any]) -> Difference:
    """The difference of the output that is furthest off."""
    if len(got) != len(wanted):
        raise AssertionError(f"{len(got)} outputs, the Model has {len(wanted)}")
    found = [difference(g, w) for g, w in zip(got, wanted, strict=True)]
    return max(found, key=lambda d: (d.error, abs(d.gain - 1)))


def one_percent_off(model: Model) -> Model:
    """A copy whose last layer with weights computes 1 % too much."""
    wrong = model.copy()
    tensors = wrong.named_tensors()
    weights = [n for n, p in wrong.named_parameters() if p.dim() > 1]
    if not weights:
        raise PacklightError(f"{model.name} has no weight to be wrong")
    for name in (weights[-1], f"{weights[-1]}_scale"):  # together, a quantized weight keeps its integers
        if name in tensors:
            wrong.set_tensor(name, tensors[name].detach() * 1.01, trainable=name in weights)
    return wrong
