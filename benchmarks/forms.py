"""The compressed forms that are compared: scripts that speak the runner protocol, and the forms each lists.

`benchmarks/runners/` holds ours, `benchmarks/peers/` those of other libraries. A script lists
its forms with `--forms`; docs/benchmarks.md describes the protocol.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import ROOT
from benchmarks.process import pinned
from packlight.errors import PacklightError

FLOAT, OURS = "float32", "packlight "  # the label of the float file, the start of those of packlight's forms
FOLDERS = (ROOT / "benchmarks" / "runners", ROOT / "benchmarks" / "peers")
_LIST_LIMIT_S = 120.0
_MAIN = 'if __name__ == "__main__"'


@dataclass(frozen=True)
class Form:
    """One compressed form. peer: the script's name, and the environment's. networks: patterns of the networks that it
    takes. quick: whether quick mode has it."""

    script: Path
    form: str
    networks: tuple[str, ...]
    quick: bool

    @property
    def peer(self) -> str:
        return self.script.stem

    @property
    def label(self) -> str:
        """What ledger and tables call it; "float32" is the float file that the others are compared with."""
        if self.form == FLOAT and self.script.parent.name == "runners":
            return FLOAT
        return f"{self.peer.removesuffix('_forms').replace('_', ' ')} {self.form}"

    def fits(self, network: str, quick: bool) -> bool:
        return (self.quick or not quick) and any(fnmatchcase(network, pattern) for pattern in self.networks)


def discover() -> tuple[list[Form], dict[str, str]]:
    """Every form of every script, the float one first; and why a script's forms could not be listed, by peer."""
    found, refused = [], {}
    for script in _scripts():
        try:
            found += listed(script)
        except PacklightError as error:
            refused[script.stem] = str(error)
    return sorted(found, key=lambda form: form.label != FLOAT), refused


def listed(script: Path) -> list[Form]:
    """What a script answers to `--forms`: a JSON list of {"form", "networks", "quick"}."""
    try:
        done = subprocess.run(
            [sys.executable, str(script), "--forms"], capture_output=True, text=True, timeout=_LIST_LIMIT_S, cwd=ROOT,
            env={**os.environ, **pinned(1)}, check=True,
        )  # fmt: skip
        entries = json.loads(done.stdout)
        return [Form(script, str(e["form"]), tuple(e["networks"]), bool(e["quick"])) for e in entries]
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise PacklightError(f"{script.name} --forms failed: {said[-1] if said else error}") from error
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise PacklightError(f"{script.name} --forms gave no list of forms: {error}") from error


def _scripts() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.py")):
            if _MAIN in path.read_text(encoding="utf-8"):  # a script, not what scripts share
                yield path
