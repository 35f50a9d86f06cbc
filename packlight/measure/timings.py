"""Timings that were taken once on a machine, kept for the next network that has the same layers.

One JSON file for a machine and the versions of what ran there, in the user's cache folder ($PACKLIGHT_CACHE,
$XDG_CACHE_HOME/packlight, ~/.cache/packlight). A file that is not whole, or not ours, counts for nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.files import cache_folder, make_folder, write_text
from packlight.measure.machine import describe
from packlight.model.lineage import digest

_TELLING = ("processor", "architecture", "cores", "instructions")


class Timings:
    """Seconds by signature, a JSON value that says what was timed. versions: of the packages that ran it. folder:
    None for the user's cache folder."""

    def __init__(self, versions: Mapping[str, str], folder: Path | None = None):
        machine = {k: v for k, v in describe().items() if k in _TELLING}
        name = digest([machine, dict(versions)])[:24]
        folder = cache_folder() if folder is None else folder
        self.path = None if folder is None else folder / "timings" / f"{name}.json"
        self._known = self._read()

    def get(self, signature: Any) -> dict[str, float] | None:
        """What is known of a signature: name → seconds."""
        return self._known.get(digest(signature))

    def add(self, found: list[tuple[Any, dict[str, float]]]) -> None:
        """Remember, beside what other processes have written meanwhile. A cache that cannot be written to is none."""
        self._known = self._read() | self._known | {digest(signature): seconds for signature, seconds in found}
        if self.path is None:
            return
        try:
            make_folder(self.path.parent)
            write_text(self.path, json.dumps(self._known))
        except PacklightError:
            return

    def _read(self) -> dict[str, dict[str, float]]:
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {k: v for k, v in content.items() if isinstance(v, dict) and all(_is_time(s) for s in v.values())}


def _is_time(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
