"""The demo: the main job on real data and a trained network that ship inside the package."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from packlight.api.measuring import compress
from packlight.model import Model
from packlight.search.result import Result
from packlight.task import Task

BUDGET = "drop<=1points, latency:min"


def run(on_stage: Callable[[str], None] = lambda text: None) -> Result:
    """Compress the ResNet-20 that `scripts/train_reference.py resnet20` trained, for ONNX Runtime."""
    on_stage("loading ResNet-20 and a part of Fashion-MNIST")
    with resources.as_file(resources.files("packlight.data").joinpath("resnet20_fashion_mnist.plm")) as path:
        model = Model.load(path)
    return compress(model, Task.named("fashion-mnist-demo"), budget=BUDGET, on_stage=on_stage)
