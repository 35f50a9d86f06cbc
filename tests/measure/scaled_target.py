"""A target that gets one layer wrong. Children import it by this module's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.targets.onnxruntime import OnnxRuntime


class ScaledBody(OnnxRuntime):
    """ONNX Runtime with a converter that makes the layer `body` 1.3 times too large."""

    name = "scaled"

    def write(self, model: Any, path: Path, form: str, dims: Mapping[str, int]) -> None:
        import torch

        with torch.no_grad():
            model.named_tensors()["body.weight"].mul_(1.3)
        super().write(model, path, form, dims)
