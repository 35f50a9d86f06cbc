"""Every test runs on one thread, so that times and sums do not depend on the machine."""

import logging

import pytest
import torch

# pytest listens to loggers that do not propagate; hearing a listener, torch writes a trace of every export, which
# takes a third of the time.
logging.getLogger("torch.__trace").propagate = True


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
