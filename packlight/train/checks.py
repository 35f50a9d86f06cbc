"""What is refused before a run starts, and what its failures are said to be."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.model import Model
from packlight.train.batches import Whole


def check_place(path: Path | None) -> None:
    """Refuse a file that could not be written in the end, before the work starts."""
    if path is not None and path.is_dir():
        raise PacklightError(f"cannot write {path}: it is a folder")
    if path is not None and not path.parent.is_dir():
        raise PacklightError(f"cannot write {path}: folder {path.parent} does not exist")


def check_inputs(model: Model, whole: Whole) -> None:
    """The data is what the network takes, but for a fixed batch size: some networks take others all the same."""
    fixed = model.fixed_batch
    shapes = [x.shape if fixed is None else (fixed, *x.shape[1:]) for x in whole.inputs]
    model.check_inputs(shapes, [str(x.dtype).removeprefix("torch.") for x in whole.inputs])


def check_fixed_batch(model: Model, samples: int, parts: int, error: RuntimeError) -> None:
    """Whether a step failed because the network insists on another batch size."""
    if model.fixed_batch is not None and samples != model.fixed_batch * parts:
        raise PacklightError(
            f"{model.name} takes {model.fixed_batch} samples at once and failed on a batch of {samples} in "
            f"{parts} parts; load it with a batch size that may change"
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C as an event, so that a step is finished and kept before the run ends; a second one ends at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(*_: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
