"""A virtual environment for each peer library that cannot share ours.

`.bench/envs/NAME` sees the running interpreter's packages (torch, numpy, onnxruntime, packlight) through a .pth file
and holds only what `benchmarks/environments/NAME.txt` pins on top. It is built where it stays, because scripts inside
carry its path; a stamp with a digest of the requirements comes last, so that a killed build is not taken for a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ROOT, SCRATCH
from packlight.errors import PacklightError
from packlight.files import write_text

REQUIREMENTS, ENVS = ROOT / "benchmarks" / "environments", SCRATCH / "envs"
_LIMIT_S = 1800.0
_OPTIONS = "# pip:"


def make(name: str, requirements: Path = REQUIREMENTS, envs: Path = ENVS) -> Path:
    """Make an environment unless it is there, and return its interpreter; ours where NAME has no requirements file.

    Raises PacklightError when the installation fails, and leaves the reason for `python_for`.
    """
    wanted, folder, failed = requirements / f"{name}.txt", envs / name, envs / f"{name}.failed"
    envs.mkdir(parents=True, exist_ok=True)
    with _alone(envs / f"{name}.lock"):
        if wanted.is_file() and not _is_whole(folder, wanted):
            failed.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _build(folder, wanted)
            except PacklightError as error:
                write_text(failed, str(error))
                raise
            write_text(folder / "stamp", _digest(wanted))
    return python_for(name, requirements, envs)


def python_for(name: str, requirements: Path = REQUIREMENTS, envs: Path = ENVS) -> Path:
    """The interpreter of an environment that `make` made, or a PacklightError that says why there is none."""
    wanted, folder, failed = requirements / f"{name}.txt", envs / name, envs / f"{name}.failed"
    if not wanted.is_file():
        return Path(sys.executable)
    if _is_whole(folder, wanted):
        return _python(folder)
    why = failed.read_text() if failed.is_file() else "it has not been made; `python -m benchmarks run` does"
    raise PacklightError(f"no environment {name}: {why}")


def _is_whole(folder: Path, wanted: Path) -> bool:
    stamp = folder / "stamp"
    return stamp.is_file() and stamp.read_text() == _digest(wanted) and _python(folder).exists()


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _build(folder: Path, wanted: Path) -> None:
    log = folder.with_suffix(".log")
    print(f"making the environment {folder.name} (once)", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", str(folder)], log)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    lines = wanted.read_text(encoding="utf-8").splitlines()
    options = [word for line in lines if line.startswith(_OPTIONS) for word in line.removeprefix(_OPTIONS).split()]
    command = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", "-q", *options]
    _run([*command, "-r", str(wanted), "-c", str(_constraints())], log)


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


def _constraints() -> Path:
    """The versions that our own environment was made with: scripts/setup.sh leaves them in it."""
    used = Path(sys.prefix) / "constraints.txt"
    return used if used.is_file() else ROOT / "constraints.txt"


def _digest(wanted: Path) -> str:
    seen = hashlib.sha256(f"{sys.prefix} {sys.version}".encode())
    for path in (wanted, _constraints()):
        seen.update(path.read_bytes())
    return seen.hexdigest()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    import fcntl

    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
