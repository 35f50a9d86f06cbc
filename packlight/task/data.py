"""Where a Task's samples come from: arrays in memory, or any torch DataLoader."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from packlight.errors import PacklightError

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """inputs: one array per model input, first axis = samples. targets: None for unlabelled data."""

    inputs: tuple[Array, ...]
    targets: Array | None

    def __len__(self) -> int:
        return len(self.inputs[0])


class Data(ABC):
    """Samples that can be read again and again in the same order."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in order, in batches of `size` (the last may be smaller)."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the content, for cache keys and reports."""

    def take(self, n: int) -> ArrayData:
        """The first n samples as arrays."""
        return first(self, n)


class ArrayData(Data):
    """Samples held in memory.

    inputs: an array, or a tuple of them for a network with several inputs; first axis = samples.
    scale, shift: inputs stored as integers are handed out as float32, `x * scale + shift`, so that images
    stay bytes in memory. Raises PacklightError on lengths that differ and on NaN or infinity.
    """

    def __init__(
        self,
        inputs: ArrayLike | Sequence[ArrayLike],
        targets: ArrayLike | None = None,
        *,
        scale: float | None = None,
        shift: float = 0.0,
    ):
        several = isinstance(inputs, tuple) or (isinstance(inputs, list) and any(hasattr(x, "shape") for x in inputs))
        self.inputs = tuple(_as_array(x) for x in (inputs if several else (inputs,)))  # type: ignore[union-attr]
        self.targets = None if targets is None else _as_array(targets)
        self.scale, self.shift = scale, shift
        lengths = [len(x) for x in self._columns]
        if len(set(lengths)) != 1:
            raise PacklightError(
                f"inputs and targets must have equal lengths, got {', '.join(map(str, lengths[:8]))}; "
                "samples are stacked in one array an input"
            )
        for i, x in enumerate(self.inputs):
            check_finite(x, f"input {i} of the data")
        if self.targets is not None:
            check_finite(self.targets, "the targets of the data")

    @property
    def _columns(self) -> tuple[Array, ...]:
        return (*self.inputs, *(() if self.targets is None else (self.targets,)))

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            yield self.select(slice(start, start + size))

    def select(self, index: slice | Array) -> Batch:
        """The samples at these positions as one Batch."""
        targets = None if self.targets is None else self.targets[index]
        return Batch(tuple(self._float(x[index]) for x in self.inputs), targets)

    def subset(self, index: slice | Array) -> ArrayData:
        """The samples at these positions as data of its own."""
        return ArrayData(
            tuple(x[index] for x in self.inputs), None if self.targets is None else self.targets[index],
            scale=self.scale, shift=self.shift,
        )  # fmt: skip

    def fingerprint(self) -> str:
        seen = hashlib.sha256(repr((self.scale, self.shift)).encode())
        for x in self._columns:
            seen.update(repr((x.shape, x.dtype.str)).encode())
            seen.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
        return seen.hexdigest()

    def _float(self, x: Array) -> Array:
        return x if self.scale is None else x.astype(np.float32) * np.float32(self.scale) + np.float32(self.shift)


class LoaderData(Data):
    """Samples from a torch DataLoader, or anything that can be iterated again and yields batches.

    A batch is (inputs, targets), (several inputs…, targets), or a dict with the key "labels", "targets" or "label".
    Order must not change between readings, so a shuffling loader is refused unless it feeds training.
    inputs: the keys of dict batches in the order of the network's inputs; needed where there are several.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        labelled: bool = True,
        shuffled: bool = False,
        inputs: Sequence[str] = (),
    ):
        if not shuffled and _shuffles(loader):
            raise PacklightError("this DataLoader shuffles, so no two readings can be compared; give shuffle=False")
        if isinstance(loader, Iterator):
            raise PacklightError("data must be readable more than once: give a DataLoader or a list, not an iterator")
        self.loader, self.labelled, self.input_names = loader, labelled, tuple(inputs)
        self._length: int | None = None

    def __len__(self) -> int:
        if self._length is None:
            known = _known_length(self.loader)
            self._length = sum(len(b) for b in self._read()) if known is None else known
        return self._length

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches as the loader makes them, cut to at most `size`."""
        for batch in self._read():
            for x in (*batch.inputs, *(() if batch.targets is None else (batch.targets,))):
                check_finite(x, "a batch of the data")
            for start in range(0, len(batch), size):
                part = slice(start, start + size)
                targets = None if batch.targets is None else batch.targets[part]
                yield Batch(tuple(x[part] for x in batch.inputs), targets)

    def fingerprint(self) -> str:
        """Of the content; of the length alone where the loader shuffles."""
        seen = hashlib.sha256()
        if _shuffles(self.loader):
            return hashlib.sha256(f"{type(self.loader).__name__} of {len(self)} samples".encode()).hexdigest()
        for batch in self._read():
            for x in (*batch.inputs, *(() if batch.targets is None else (batch.targets,))):
                seen.update(repr((x.shape, x.dtype.str)).encode())
                seen.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
        return seen.hexdigest()

    def _read(self) -> Iterator[Batch]:
        for item in self.loader:
            batch = self._as_batch(item)
            lengths = {len(x) for x in (*batch.inputs, *(() if batch.targets is None else (batch.targets,)))}
            if len(lengths) != 1:
                raise PacklightError(f"inputs and targets of a batch must have equal lengths, got {sorted(lengths)}")
            yield batch

    def _as_batch(self, item: Any) -> Batch:
        targets = None
        if isinstance(item, Mapping):
            item = dict(item)
            targets = next((item.pop(k) for k in ("labels", "targets", "label") if k in item), None)
        elif isinstance(item, tuple | list) and self.labelled and len(item) > 1:
            *item, targets = item
            item = item[0] if len(item) == 1 else item
        inputs = self._in_order(item) if isinstance(item, Mapping) else item
        several = inputs if isinstance(inputs, tuple | list) else (inputs,)
        return Batch(tuple(map(_as_array, several)), None if targets is None else _as_array(targets))

    def _in_order(self, inputs: Mapping[str, Any]) -> list[Any]:
        if set(self.input_names or inputs) != set(inputs) or (len(inputs) > 1 and not self.input_names):
            raise PacklightError(
                f"batches hold {sorted(inputs)}: name them in the order of the network's inputs, "
                "LoaderData(loader, inputs=(…)), and leave out the others"
            )
        return [inputs[name] for name in self.input_names or inputs]


def _shuffles(loader: Any) -> bool:
    samplers = (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None))
    return any("Random" in type(s).__name__ for s in samplers)


def _known_length(loader: Any) -> int | None:
    """Samples a DataLoader hands out, where its sampler says so without reading them."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    plain = batches is None or getattr(batches, "sampler", None) is sampler
    sized = plain and not getattr(loader, "drop_last", False) and isinstance(sampler, Sized)
    return len(sampler) if sized else None  # type: ignore[arg-type]


def _as_array(x: Any) -> Array:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:  # rows of unequal lengths
        raise PacklightError(f"data must be arrays with samples along the first axis: {error}") from error
    if array.dtype.kind not in "biufc" or array.ndim == 0:
        raise PacklightError(f"data must be arrays of numbers with samples along the first axis, got {_shown(x)}")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _shown(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__


def as_data(source: Any, *, shuffled: bool = False) -> Data | None:
    """Data from whatever a user hands over: Data, an array, (inputs, targets), a DataLoader; None stays None.

    Inputs of a network with several are a tuple of arrays: ((left, right), targets).
    """
    if source is None or isinstance(source, Data):
        return source
    if isinstance(source, tuple) and len(source) == 2 and any(hasattr(x, "shape") for x in source):
        return ArrayData(source[0], source[1])
    if hasattr(source, "shape"):
        return ArrayData(source)
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping | tuple):
        return LoaderData(source, shuffled=shuffled)
    raise PacklightError(f"data must be arrays, (inputs, targets) or a DataLoader, got {type(source).__name__}")


def first(data: Data, n: int) -> ArrayData:
    """The first n samples of any data, as arrays in memory."""
    if isinstance(data, ArrayData):
        return data.subset(slice(0, n))
    parts: list[Batch] = []
    for batch in data.batches(n):
        parts.append(batch)
        if sum(map(len, parts)) >= n:
            break
    if not parts:
        raise PacklightError("the data is empty: no sample could be read")
    inputs = tuple(np.concatenate(column)[:n] for column in zip(*(p.inputs for p in parts), strict=True))
    labels = [p.targets for p in parts if p.targets is not None]
    return ArrayData(inputs, np.concatenate(labels)[:n] if labels else None)


def check_finite(x: Array, what: str) -> None:
    """Raise PacklightError when a float array holds NaN or infinity."""
    if np.issubdtype(x.dtype, np.floating):
        bad = int(x.size - np.isfinite(x).sum())
        if bad:
            raise PacklightError(f"{what}: {bad} of {x.size} values are NaN or infinite; clean the data first")
