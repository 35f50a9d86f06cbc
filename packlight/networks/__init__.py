"""Reference networks: plain PyTorch modules, used by the demo, the examples and the benchmarks."""

from packlight.networks.mobilenet import mobilenet_v2
from packlight.networks.resnet import resnet20, resnet50

__all__ = ["mobilenet_v2", "resnet20", "resnet50"]
