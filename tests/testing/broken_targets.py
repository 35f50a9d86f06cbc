"""Targets that break the contract, each in one way; children import them by this module's name."""

import torch

from packlight.targets.onnxruntime import OnnxRuntime


class ForgetsTheBias(OnnxRuntime):
    """Drops the last bias on the way into the file."""

    def write(self, model, path, form, dims):
        name = [n for n, p in model.named_parameters() if p.dim() == 1][-1]
        model.set_tensor(name, torch.zeros_like(model.named_tensors()[name]), trainable=True)
        super().write(model, path, form, dims)


class KeepsState(OnnxRuntime):
    """Takes an argument, which a child process would not know."""

    def __init__(self, opset: int):
        self.opset = opset


class NotThere(OnnxRuntime):
    """Its runtime is not installed."""

    install = "pip install notthere"
    packages = ("packlight_has_no_such_runtime",)
