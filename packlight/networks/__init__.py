"""Reference networks: plain PyTorch modules, used by the demo, the examples and the benchmarks."""

from packlight.networks.lenet import lenet5, lenet300
from packlight.networks.mobilenet import mobilenet_v2, mobilenet_v2_small
from packlight.networks.resnet import resnet20, resnet50

__all__ = ["lenet5", "lenet300", "mobilenet_v2", "mobilenet_v2_small", "resnet20", "resnet50"]
