"""The two small networks that compression papers compare on (LeCun et al. 1998; widths of the Caffe examples)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from packlight.networks.widths import scaled


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers of 300 and 100 units, 266,610 parameters on 28×28 images."""

    def __init__(self, pixels: int = 784, classes: int = 10):
        super().__init__()
        self.first = nn.Linear(pixels, 300)
        self.second = nn.Linear(300, 100)
        self.head = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.second(relu(self.first(x.flatten(1))))))


class LeNet5(nn.Module):
    """The Caffe LeNet-5: 20 and 50 filters of 5×5, a hidden layer of 500, 431,080 parameters; all times `width`."""

    def __init__(self, channels: int = 1, classes: int = 10, width: float = 1):
        super().__init__()
        first, second, hidden = (scaled(units, width) for units in (20, 50, 500))
        self.first = nn.Conv2d(channels, first, 5)
        self.second = nn.Conv2d(first, second, 5)
        self.hidden = nn.Linear(second * 4 * 4, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(self.first(x), 2)
        x = max_pool2d(self.second(x), 2)
        return self.head(relu(self.hidden(x.flatten(1))))


def lenet300(pixels: int = 784, classes: int = 10) -> LeNet300:
    """LeNet-300-100 for images of this many pixels."""
    return LeNet300(pixels, classes)


def lenet5(channels: int = 1, classes: int = 10, width: float = 1) -> LeNet5:
    """The Caffe LeNet-5 for 28×28 images. width multiplies its channels and hidden units."""
    return LeNet5(channels, classes, width)
