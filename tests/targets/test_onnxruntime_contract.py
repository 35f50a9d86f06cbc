"""ONNX Runtime meets the contract that plug-ins' targets are held to."""

from small_networks import exporter

from packlight.targets import get
from packlight.testing import TargetContract


class TestOnnxRuntime(TargetContract):
    def target(self):
        return get("onnxruntime")

    def exporter(self):
        return exporter()
