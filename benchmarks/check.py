"""The regression check: does a fresh quick run still do what the committed ledger says?

It fails on real differences for the worse only, and tells those for the better.

* Bytes are deterministic up to library versions: more than 1 % apart is a difference.
* Accuracy is compared on the same test images, image by image: the ledger keeps which ones each form got right, so the
  change has the exact paired interval of packlight.measure.intervals. Two independent intervals would hide a
  drop of two points among 2,000 images; paired, five images lost and none won show. A change counts where the whole
  interval is more than SLACK_POINTS away from none: other processors round a few images either way.
* Latency is compared as ratios only, never as milliseconds, and two ratios differ when their intervals, widened by
  what unchanged code was seen to move from run to run, do not overlap. To the float file that is much (FLOAT_SPREAD):
  a loaded machine slows float and int8 kernels differently. To its twin, the form of another library that was nearest
  to it in speed and so runs like kernels, it is little (TWIN_SPREAD). docs/benchmarks.md says how both were measured.
* A form that was measured and now fails is a difference; one that is skipped, or that only one side has, is told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.forms import FLOAT, OURS
from benchmarks.interleave import ratio
from benchmarks.ledger import DONE, FAILED, SKIPPED, Key, Row, Rows, cases, unpacked
from packlight.errors import PacklightError
from packlight.measure import Measurement, intervals
from packlight.task.metrics import accuracy

SLACK_POINTS = 0.1
BYTES_SHARE = 0.01
FLOAT_SPREAD = 1.5
TWIN_SPREAD = 1.10
TWIN_REACH = 1.25


@dataclass(frozen=True)
class Change:
    """What the check tells of a case's form ("": the whole case). kind: "WORSE", which fails, "better" or "note"."""

    kind: str
    case: str
    form: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind:6}  {self.case}{', ' * bool(self.form)}{self.form}: {self.text}"


def check(committed: Sequence[Row], fresh: Sequence[Row]) -> int:
    """Print what changed between the newest quick runs; 1 where something is worse, else 0."""
    before, after = cases(committed, "quick"), cases(fresh, "quick", ends=(DONE, SKIPPED, FAILED))
    shared = [name for name in before if name in after]
    if not shared:
        raise PacklightError(
            f"nothing to compare: the committed ledger has quick cases {sorted(before) or 'none'}, "
            f"the fresh one {sorted(after) or 'none'}; `make bench` measures, `make bench-record` commits"
        )
    alone = sorted(before.keys() ^ after.keys())
    found = [Change("note", n, "", f"only in the {'committed' if n in before else 'fresh'} ledger") for n in alone]
    for name in shared:
        found += compare(name, before[name], after[name])
    print(*found, sep="\n", end="\n" * bool(found))
    count = Counter(change.kind for change in found)
    print(f"{len(shared)} cases compared: {count['WORSE']} differences for the worse, {count['better']} for the better")
    return 1 if count["WORSE"] else 0


def compare(case: str, before: Rows, after: Rows) -> Iterator[Change]:
    """Every change of a case, form by form."""
    for what, kind in ((FAILED, "WORSE"), (SKIPPED, "note")):
        if ("", what, None) in after:
            yield Change(kind, case, "", f"{what}: {after['', what, None].detail['reason']}")
            return
    for form in [form for form, what, _ in before if what == "file_bytes"]:
        failed, skipped = after.get((form, FAILED, None)), after.get((form, SKIPPED, None))
        if failed and (form, FAILED, None) not in before:
            yield Change("WORSE", case, form, f"was measured and now fails: {failed.detail['reason']}")
        elif (form, "file_bytes", None) not in after:
            yield Change("note", case, form, f"skipped: {skipped.detail['reason']}" if skipped else "not measured")
        for changes in (_bytes, _quality, _latencies):
            for text, worse in changes(before, after, form):
                yield Change("WORSE" if worse else "better", case, form, text)


def _bytes(before: Rows, after: Rows, form: str) -> Iterator[tuple[str, bool]]:
    key = (form, "file_bytes", None)
    if key in after:
        old, new = before[key].value or 0.0, after[key].value or 0.0
        if abs(new - old) > BYTES_SHARE * old:
            yield f"{old:,.0f} bytes became {new:,.0f}", new > old


def _quality(before: Rows, after: Rows, form: str) -> Iterator[tuple[str, bool]]:
    """The paired change of every 0/1 metric of the same test samples."""
    for key, old in before.items():
        new = after.get(key)
        if key[0] != form or new is None or "right" not in old.detail:
            continue
        if old.detail["data"] != new.detail["data"]:
            raise PacklightError(f"{old.case}, {form}: the two ledgers judge other test samples; record it anew")
        drop = intervals.drop(_hits(old), _hits(new), accuracy())
        if drop.low > SLACK_POINTS or drop.high < -SLACK_POINTS:
            yield f"{old.what} {old.value:.2f} became {new.value:.2f}, a drop of {drop}", drop.value > 0


def _hits(row: Row) -> np.ndarray:
    return unpacked(row.detail["right"], row.n)[:, None].astype(np.float64)


def _latencies(before: Rows, after: Rows, form: str) -> Iterator[tuple[str, bool]]:
    timed = {key: row for key, row in before.items() if key[1] == "latency_ms" and key in after}
    for key in (key for key in timed if key[0] == form != FLOAT):
        float_key = (FLOAT, *key[1:])
        for other, spread in ((float_key, FLOAT_SPREAD), (_twin(timed, key), TWIN_SPREAD)):
            if other is None or other not in timed:
                continue
            was, now = _ratio(before[key], before[other]), _ratio(after[key], after[other])
            if now.low > spread * was.high or now.high < was.low / spread:
                yield f"batch {key[2]}: {was} of {other[0]}'s time became {now}", now.value > was.value


def _twin(timed: Rows, mine: Key) -> Key | None:
    """The timing of another library's form that is nearest to this one's, within TWIN_REACH of it."""
    others = (k for k in timed if k[2] == mine[2] and k[0] != mine[0] and not k[0].startswith(OURS))
    distance = {k: abs(math.log((timed[k].value or 1.0) / (timed[mine].value or 1.0))) for k in others}
    nearest = min(distance, key=distance.__getitem__, default=None)
    return nearest if nearest and distance[nearest] < math.log(TWIN_REACH) else None


def _ratio(mine: Row, theirs: Row) -> Measurement:
    return ratio(mine.detail["rounds"], theirs.detail["rounds"])
