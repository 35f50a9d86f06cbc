"""What training tests share."""

from __future__ import annotations

import pytest
from nets import digits

from packlight.task import Task


@pytest.fixture(scope="session")
def task() -> Task:
    return digits()
