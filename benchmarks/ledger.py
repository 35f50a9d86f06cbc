"""The ledger: one JSON object a line, one line a measured number. It only ever grows."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.measure import Measurement

DONE, SKIPPED, FAILED = "case_s", "skipped", "failed"


@dataclass(frozen=True)
class Row:
    """One measured number, with everything needed to judge it.

    run: id of the run. time: UTC, ISO 8601. mode: "quick" or "full". form: "" for facts of the whole case.
    what: "accuracy", "drop_points", "agreement", "latency_ms", "latency_ratio", "file_bytes", "times_smaller", … or
    "case_s" (the case is complete, and took that long), "skipped", "failed". batch: of latencies. value: None where
    there is none. low, high: the 95 % interval. detail: what cannot be one number: the reason of a skip or failure,
    the options of a form, {"rounds": seconds} of latencies, {"right": packed bits, "data": digest} of accuracies.
    commit, dirty: of the working tree. versions: of the libraries that made and ran the form.
    """

    run: str
    time: str
    mode: str
    case: str
    network: str
    form: str
    what: str
    batch: int | None
    value: float | None
    unit: str
    n: int
    low: float | None
    high: float | None
    detail: dict[str, Any] = field(repr=False)
    commit: str
    dirty: bool
    versions: dict[str, str] = field(repr=False)
    machine: dict[str, Any] = field(repr=False)

    @property
    def key(self) -> Key:
        """What this is a number of, within its case."""
        return self.form, self.what, self.batch


Finding = dict[str, Any]  # the fields of a Row that the measured case knows
Key = tuple[str, str, int | None]  # form, what, batch
Rows = dict[Key, Row]
_NAMES = {f.name for f in fields(Row)}
_TEXTS = ("run", "time", "mode", "case", "network", "form", "what", "unit", "commit")


def finding(
    form: str,
    what: str,
    measured: Measurement | None = None,
    *,
    batch: int | None = None,
    versions: Mapping[str, str] | None = None,
    **detail: Any,
) -> Finding:
    """A number, or what there is to say (detail: reason=…) where there is none."""
    nothing = {"value": None, "unit": "", "n": 0, "low": None, "high": None}
    numbers = nothing if measured is None else measured.as_json()
    return {"form": form, "what": what, "batch": batch, **numbers, "detail": detail, "versions": dict(versions or {})}


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows in one write, flushed to disk; a line that an earlier, killed writer left cut is dropped first."""
    lines = "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            file.seek(0)
            file.truncate(_whole(file.read()))
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PacklightError(f"cannot write {path}: {error.strerror or error}") from error


def read(path: Path) -> list[Row]:
    """Every row, in the order of writing; a cut last line is passed over, anything else that is no row refused."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PacklightError(f"no ledger {path}; `python -m benchmarks run --ledger {path}` writes one") from None
    except OSError as error:
        raise PacklightError(f"cannot read {path}: {error.strerror or error}") from error
    lines = content[: _whole(content)].splitlines()
    return [_row(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def complete(path: Path, run: str) -> set[str]:
    """The cases that a run has whole measurements of."""
    return {row.case for row in (read(path) if path.exists() else []) if row.run == run and row.what == DONE}


def cases(rows: Sequence[Row], mode: str, ends: Collection[str] = (DONE,)) -> dict[str, Rows]:
    """The newest measurement of each case: case → its rows by key. ends: complete ones only, or with SKIPPED and FAILED
    also those that came to nothing as a whole."""
    open_: dict[tuple[str, str], Rows] = {}
    complete: dict[str, Rows] = {}
    for row in rows:
        if row.mode == mode:
            block = open_.setdefault((row.run, row.case), {})
            block[row.key] = row
            if row.form == "" and row.what in ends:
                complete[row.case] = open_.pop((row.run, row.case))
    return complete


def packed(right: NDArray[np.bool_]) -> str:
    """Which samples were right, as compressed bits in base64."""
    return base64.b64encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode()


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """The n truth values that `packed` was given."""
    return np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8), count=n).astype(bool)


def _whole(content: bytes) -> int:
    """The length of the whole lines in it."""
    return content.rfind(b"\n") + 1


def _row(line: bytes, where: str) -> Row:
    try:
        found = json.loads(line)
    except ValueError:
        raise PacklightError(f"{where} is no JSON; restore the ledger, it is only ever appended to") from None
    if not isinstance(found, dict) or found.keys() != _NAMES:
        odd = sorted(_NAMES ^ found.keys())[:4] if isinstance(found, dict) else "no object"
        raise PacklightError(f"{where} is no ledger row (missing or unknown: {odd}); restore the ledger")
    texts = all(isinstance(found[name], str) for name in _TEXTS)
    numbers = all(found[name] is None or type(found[name]) in (int, float) for name in ("value", "low", "high"))
    dicts = all(isinstance(found[name], dict) for name in ("detail", "versions", "machine"))
    if not (texts and numbers and dicts and type(found["n"]) is int and type(found["batch"]) in (int, type(None))):
        raise PacklightError(f"{where}: a field has the wrong type; restore the ledger")
    return Row(**found)
