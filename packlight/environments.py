"""Environments of their own for packages that cannot share ours.

Such an environment sees the running interpreter's packages (torch, numpy, packlight) through a .pth file and holds only
what its requirements file pins on top. It is built where it stays, because scripts inside carry its path; a stamp with
a digest of the requirements comes last, so that a killed build is not taken for a whole.

Requirements are lines for pip; one that starts with "# pip:" holds options for pip.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packlight.errors import MissingRuntime, PacklightError
from packlight.files import cache_folder, write_text

_OURS = Path(__file__).parent / "data" / "environments"
_LIMIT_S = 1800.0
_OPTIONS = "# pip:"


@dataclass(frozen=True)
class Environments:
    """Where requirements are read (NAME.txt), and where environments stand (a folder each)."""

    requirements: Path
    folder: Path

    def make(self, name: str, on_build: Callable[[str], None] = lambda name: None) -> Path:
        """Make an environment unless it is there, and return its interpreter. on_build: told the name before minutes
        of work. Raises PacklightError when the installation fails; `missing` says why from then on."""
        failed = self.folder / f"{name}.failed"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PacklightError(f"cannot make {self.folder}: {error.strerror or error}") from error
        with _alone(self.folder / f"{name}.lock"):
            if self.missing(name):
                failed.unlink(missing_ok=True)
                place = self.folder / name
                shutil.rmtree(place, ignore_errors=True)
                on_build(name)
                try:
                    _build(place, self._file(name))
                except PacklightError as error:
                    write_text(failed, str(error))
                    raise
                write_text(place / "stamp", _digest(self._file(name)))
        return self.interpreter(name)

    def interpreter(self, name: str) -> Path:
        """The interpreter of an environment that was made; MissingRuntime where it was not."""
        if why := self.missing(name):
            raise MissingRuntime(f"no environment {name}: {why}")
        return _python(self.folder / name)

    def missing(self, name: str) -> str:
        """Why an environment cannot be used: not made, made of other requirements, or how making it failed; "" when
        it can."""
        stamp, failed = self.folder / name / "stamp", self.folder / f"{name}.failed"
        if failed.is_file():
            return failed.read_text(encoding="utf-8")
        if not stamp.is_file() or not _python(self.folder / name).exists():
            return "which has not been made"
        return (
            "" if stamp.read_text(encoding="utf-8") == _digest(self._file(name)) else "whose requirements have changed"
        )

    def _file(self, name: str) -> Path:
        return self.requirements / f"{name}.txt"


def own_environments() -> Environments:
    """The environments of targets: below $PACKLIGHT_ENVIRONMENTS, else in the virtual environment that we run in, else
    in the user's cache folder."""
    if given := os.environ.get("PACKLIGHT_ENVIRONMENTS"):
        return Environments(_OURS, Path(given))
    prefix = Path(sys.prefix)
    if sys.prefix != sys.base_prefix and os.access(prefix, os.W_OK):
        return Environments(_OURS, prefix / "packlight" / "environments")
    cache = cache_folder()
    if cache is None:
        raise PacklightError("no folder for environments; set PACKLIGHT_ENVIRONMENTS to one")
    mine = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:12]
    return Environments(_OURS, cache / "environments" / mine)


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _build(folder: Path, wanted: Path) -> None:
    log = folder.with_suffix(".log")
    _run([sys.executable, "-m", "venv", str(folder)], log)
    site = next(p for p in (*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")))
    (site / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    lines = wanted.read_text(encoding="utf-8").splitlines()
    options = [word for line in lines if line.startswith(_OPTIONS) for word in line.removeprefix(_OPTIONS).split()]
    command = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", "-q", *options]
    pinned = [word for path in _constraints() for word in ("-c", str(path))]
    _run([*command, "-r", str(wanted), *pinned], log)


def _run(command: list[str], log: Path) -> None:
    try:
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=output, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PacklightError(f"{command[0]} failed: {error}; see {log}") from error
    if done.returncode:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        worst = next((line for line in said if "error" in line.lower()), said[-1] if said else "no output")
        raise PacklightError(f"{worst.strip()[:300]}; see {log}")


def _constraints() -> list[Path]:
    """The versions that our own environment was made with, where scripts/setup.sh made it."""
    used = Path(sys.prefix) / "constraints.txt"
    return [used] if used.is_file() else []


def _digest(wanted: Path) -> str:
    """Of all that an environment is made of."""
    seen = hashlib.sha256(f"{sys.prefix} {sys.version}".encode())
    for path in (wanted, *_constraints()):
        seen.update(path.read_bytes())
    return seen.hexdigest()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two that make one environment wait for each other, where the system has file locks."""
    with open(lock, "w") as handle:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
