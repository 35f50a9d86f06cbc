"""LiteRT meets the contract that plug-ins' targets are held to."""

from packlight.targets import get
from packlight.testing import TargetContract


class TestLiteRT(TargetContract):
    def target(self):
        return get("litert")
