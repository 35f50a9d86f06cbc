"""decoders/plt.c as programs: as users compile it, and with checks for every access to memory."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from made_files import SOURCE

STRICT = "-std=c99 -Wall -Wextra -Wconversion -Wshadow -pedantic -Werror".split()
CHECKED = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all".split()


def missing(what: str) -> None:
    """In CI a skipped decoder would be a green test of nothing."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def compiled(folder: Path, *flags: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        missing("there is no C compiler `cc`: apt-get install gcc libc6-dev")
    program = folder / "plt"
    done = subprocess.run([str(compiler), *STRICT, *flags, "-o", program, SOURCE], capture_output=True, text=True)
    if done.returncode and "san" in done.stderr and "error:" not in done.stderr:
        missing(f"the C compiler has no sanitizers: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("decoder"), "-O2")


@pytest.fixture(scope="session")
def checked_decoder(tmp_path_factory) -> Path:
    return compiled(tmp_path_factory.mktemp("checked_decoder"), *CHECKED)
