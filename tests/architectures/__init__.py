"""Small architectures with random weights whose graph structure is that of the published ones, for analyses of graphs.

Widths, depths and images are small; the operators between the layers are those that real code uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures import (
    classic,
    dense,
    detection,
    language,
    mixing,
    mobile,
    multibranch,
    residual,
    sequence,
    speech,
    tabular,
    vision,
)


@dataclass(frozen=True)
class Architecture:
    """inputs: two samples, as floats or tokens. family: the module that it is written in."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    family: str


FAMILIES = (
    classic, residual, multibranch, detection, mobile, dense, sequence, speech, vision, language, mixing, tabular,
)  # fmt: skip
ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture(name, make, inputs, module.__name__.rpartition(".")[2])
    for module in FAMILIES
    for name, (make, inputs) in module.TABLE.items()
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode and its inputs, both from the seed."""
    architecture = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = architecture.make().eval()
        set_channels_apart(module)
        return module, architecture.inputs()


@torch.no_grad()
def set_channels_apart(module: nn.Module) -> None:
    """No two channels of a norm, bias or scale alike, so that mixing two up changes the outputs."""
    for parameter in module.parameters():
        if parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
            parameter += 0.1 * torch.randn_like(parameter)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
