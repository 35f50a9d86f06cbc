"""Core ML meets the contract that plug-ins' targets are held to; what needs predictions is skipped off macOS."""

from packlight.targets import get
from packlight.testing import TargetContract


class TestCoreML(TargetContract):
    def target(self):
        return get("coreml")
