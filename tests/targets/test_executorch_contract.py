"""ExecuTorch meets the contract that plug-ins' targets are held to."""

import pytest

from packlight.targets import get
from packlight.testing import TargetContract

pytestmark = pytest.mark.slow  # its converter takes ten seconds a file


class TestExecuTorch(TargetContract):
    def target(self):
        return get("executorch")
