"""What the ledger's forms say of themselves: measurements, the data they were taken on, which of them ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from packlight.report import format as fmt

Form = Mapping[str, Any]
Result = Mapping[str, Any]


def measured(form: Form, key: str) -> fmt.Numbers | None:
    """A measurement of a form, None where it was not taken."""
    found = (form.get("measurements") or {}).get(key)
    return found if fmt.known(found) else None


def title(form: Form) -> str:
    """A form's name."""
    return str(form.get("name", ""))


def forms(result: Result) -> list[Form]:
    """The baseline, then every candidate, the best among them once."""
    found = [result["baseline"], *(result.get("candidates") or [])]
    return found if title(result["best"]) in map(title, found) else [*found, result["best"]]


def role(form: Form, result: Result) -> str:
    """best, baseline, refused or other."""
    if title(form) == title(result["best"]):
        return "best"
    if title(form) == title(result["baseline"]):
        return "baseline"
    return "refused" if form.get("refused") else "other"


def ships_baseline(result: Result) -> bool:
    """Whether the best form is the one that came in."""
    return title(result["best"]) == title(result["baseline"])


def samples(form: Form, key: str = "quality") -> str:
    """How many samples a number is of: "n = 10,000"; "" where that is not known."""
    count = (measured(form, key) or {}).get("n")
    return f"n{fmt.SPACE}={fmt.SPACE}{fmt.count(count)}" if fmt.is_number(count) else ""


def data_of(form: Form, key: str = "quality") -> str:
    """Which data a number is of: "test data, n = 10,000"."""
    split = f"{form['split']} data" if form.get("split") else ""
    return ", ".join(filter(None, (split, samples(form, key))))


def workload(result: Result) -> str:
    """What one call is, as in "batch 1, 1 thread"."""
    given = result.get("workload") or {}
    batch = f"batch {fmt.count(given['batch'])}" if "batch" in given else ""
    threads = fmt.plural(given["threads"], "thread") if "threads" in given else ""
    return ", ".join(filter(None, (batch, threads)))


def data_note(result: Result) -> str:
    """One sentence or two on which data the quality numbers are of, and how far they can be believed."""
    everything, best = forms(result), result["best"]
    splits = {f.get("split") for f in everything} - {None}
    others = [f for f in everything if role(f, result) in ("refused", "other")]
    elsewhere = [f for f in others if f.get("split") and f.get("split") != best.get("split")]
    if elsewhere and best.get("split"):
        again = "the baseline was" if ships_baseline(result) else f"the baseline and {title(best)} were"
        return (
            f"The forms were chosen on {data_of(elsewhere[0])}; {again} then measured again on {data_of(best)}, "
            "which the search had not seen. A drop is always against the baseline on the same samples."
        )
    if splits == {"validation"}:
        return "There was no test data: these are validation numbers, on which the choice was made too."
    if splits == {"test"} and others:
        return "There was no validation data: choice and verdict are on the same test data, which flatters the choice."
    return ""


def plot_note(result: Result) -> str:
    """Which data the drops in the plot are of, where that is not one for all."""
    best = result["best"]
    splits: Sequence[str] = sorted({str(f["split"]) for f in forms(result) if f.get("split")} - {best.get("split")})
    if not splits or not best.get("split"):
        return ""
    return f"Drops are of {best['split']} data for {title(best)}, of {' and '.join(splits)} data for the others."
