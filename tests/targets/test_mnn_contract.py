"""MNN meets the contract that plug-ins' targets are held to."""

from packlight.targets import get
from packlight.testing import TargetContract


class TestMnn(TargetContract):
    def target(self):
        return get("mnn")
