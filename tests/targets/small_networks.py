"""Networks that the zoo lacks, and how the tests of targets make Models of all of them."""

import functools

import numpy as np
import torch
import zoo
from torch import Tensor, nn

import packlight as pl
from packlight.targets import Child, get
from packlight.task import ArrayData


class InvertedResidual(nn.Module):
    """Expansion, depthwise with ReLU6, linear projection, and a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()

        def normed(i: int, o: int, k: int, groups: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(i, o, k, 1, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]

        expand, depthwise = [*normed(8, 16, 1), nn.ReLU6()], [*normed(16, 16, 3, 16), nn.ReLU6()]
        self.stem, self.body = nn.Sequential(*normed(3, 8, 3)), nn.Sequential(*expand, *depthwise, *normed(16, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x + self.body(x), 1).flatten(1))


class DeadChannels(nn.Module):
    """A batch norm with γ = 0 on some channels: what is left of them is β, so their folded weights are all zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 4)
        with torch.no_grad():
            self.norm.weight[::2] = 0
            self.norm.bias.copy_(torch.linspace(0.5, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class TwoDynamic(nn.Module):
    """Batch and length are both free, and of the same size in the example."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.mix(x) @ x.transpose(1, 2), -1)
        return self.head(weights @ x)


class Encoder(nn.Module):
    """One transformer block on tokens that are vectors already."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(5, 16) * 0.1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(16) for _ in range(3))
        self.qkv, self.proj, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 4)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + self.position
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, t, c))
        return self.head(self.norm3(x + self.mlp(self.norm2(x)))[:, 0])


EXTRA = {"inverted_residual": InvertedResidual, "dead_channels": DeadChannels, "two_dynamic": TwoDynamic,
         "encoder": Encoder}  # fmt: skip
DYNAMIC = {"two_dynamic": {"x": {0: "batch", 1: "length"}}}


_children: list[Child] = []


def exporter() -> Child:
    """The one child process in which all these tests convert for ONNX Runtime: loading the converter takes seconds."""
    if not _children or not _children[-1].alive:
        _children.append(Child(get("onnxruntime")))
    return _children[-1]


@functools.cache
def made(name: str) -> pl.Model:
    """The network as a Model with its batch norms folded; batch norms have seen data, so none is the identity."""
    torch.manual_seed(0)
    if name not in EXTRA:
        module, example = zoo.make(name)
    else:
        module = EXTRA[name]().eval()
        example = torch.randn({"two_dynamic": (3, 3, 6), "encoder": (3, 5, 16)}.get(name, (3, 3, 8, 8)))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return pl.fold(pl.load(module, example, dynamic=DYNAMIC.get(name), name=name))


@functools.cache
def quantized(name: str) -> pl.Model:
    """The same in int8, calibrated on random inputs."""
    model = made(name)
    batch = {"batch": 64} if "batch" in model.dims else {}
    inputs = tuple(x.numpy() for x in model.example_inputs(seed=1, **batch))
    return pl.quantize(model, pl.Task("random", calibration=ArrayData(inputs)), target="onnxruntime")


def inputs_of(model: pl.Model, **dims: int) -> tuple[np.ndarray, ...]:
    """Random inputs; the sizes that are not given are those of the example."""
    return tuple(x.numpy() for x in model.example_inputs(seed=7, **{k: v for k, v in dims.items() if k in model.dims}))
