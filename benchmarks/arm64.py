"""An arm64 Python with ONNX Runtime and ncnn under qemu's user-mode emulation, in `.bench/arm64`: whether files compute
the same there. Times mean nothing under emulation, so none are taken.

Debian's packages and PyPI's wheels for arm64 are unpacked, nothing is installed. onnxruntime newer than 1.23.2 crashes
under qemu 7.2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks import SCRATCH
from packlight.errors import PacklightError

HOME = SCRATCH / "arm64"
SYSTEM = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6", "libgcc-s1",
    "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libgomp1",
)  # fmt: skip
WHEELS = "onnxruntime==1.23.2", "ncnn==1.0.20261020", "numpy==2.3.5"
_PLATFORMS = "manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"
_APT = """APT::Architecture "arm64"; APT::Architectures {{ "arm64"; }}; Dir::State "{home}/state";
Dir::State::status "{home}/state/status"; Dir::Cache "{home}/cache"; APT::Sandbox::User "root"; Debug::NoLocking "1";
"""
_LIMIT_S = 900.0


def run(script: Path, *arguments: Path | str) -> None:
    """Run a Python script there. Raises PacklightError with its last words."""
    _made()
    qemu, python = HOME / "qemu/usr/bin/qemu-aarch64-static", HOME / "root/usr/bin/python3.11"
    env = {"PYTHONPATH": str(HOME / "site"), "PYTHONHOME": str(HOME / "root/usr"), "OMP_NUM_THREADS": "1"}
    _call([str(qemu), "-L", str(HOME / "root"), str(python), str(script), *map(str, arguments)], env=env)


def _made() -> None:
    """Fetch and unpack, unless it is there whole."""
    if (HOME / "done").exists():
        return
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise PacklightError(f"an arm64 system is unpacked from Debian's packages, and this machine has no {tool}")
    print("making the arm64 environment (once)", file=sys.stderr, flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    for folder in ("state/lists/partial", "cache/archives/partial", "debs", "wheels", "site", "root", "qemu"):
        (HOME / folder).mkdir(parents=True)
    (HOME / "state/status").touch()
    (HOME / "apt.conf").write_text(_APT.format(home=HOME))
    env = {**os.environ, "APT_CONFIG": str(HOME / "apt.conf")}
    _call(["apt-get", "-qq", "update"], env=env)
    _call(["apt-get", "-qq", "download", *SYSTEM], env=env, cwd=HOME / "debs")
    for package in (HOME / "debs").glob("*.deb"):
        _call(["dpkg", "-x", str(package), str(HOME / "root")])
    _call(["apt-get", "-qq", "download", "qemu-user-static"], cwd=HOME)
    _call(["dpkg", "-x", str(next(HOME.glob("qemu-user-static*.deb"))), str(HOME / "qemu")])
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    _call([sys.executable, "-m", "pip", "download", "-q", "--no-deps", *platforms, "--python-version", "3.11",
           "--only-binary=:all:", "-d", str(HOME / "wheels"), *WHEELS])  # fmt: skip
    for wheel in (HOME / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(HOME / "site")
    (HOME / "done").touch()


def _call(command: list[str], **how: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, **how)  # type: ignore[call-overload]
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise PacklightError(f"{' '.join(command[:3])} … failed with {done.returncode}: {words[:300]}")
