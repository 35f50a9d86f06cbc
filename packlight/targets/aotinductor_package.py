"""What AOTInductor packages (a zip of shared library, sources and facts), made small and equal for equal networks.

Sources and debugging symbols go: two thirds of a small network's file. Names of the folders that it was made and
compiled in become dots, because one of them is chance.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_SYMBOLS = ("--strip-unneeded", "--remove-section=.note.gnu.build-id", "--remove-section=.comment")
# Sources, facts about them under a name that is chance, and a digest of what was taken out.
_LEFT_OUT = (".cpp", ".kernel_metadata.json", ".data/serialization_id")
_FACTS = "_metadata.json"


def pack(made: Path, path: Path, folders: Sequence[str]) -> None:
    """Write the package `made` to `path`, without sources, symbols and the names of `folders`."""
    with zipfile.ZipFile(made) as whole, zipfile.ZipFile(path, "w") as packed:
        for entry in whole.infolist():
            if entry.filename.endswith(_LEFT_OUT):
                continue
            content = whole.read(entry)
            if entry.filename.endswith(".so"):
                content = _bare(content)
                for folder in folders:
                    content = content.replace(folder.encode(), b"." * len(folder.encode()))
            packed.writestr(zipfile.ZipInfo(entry.filename), content)


def instructions(path: Path) -> str:
    """The sets of instructions that the code was compiled for, "AVX512 AVX512_VNNI"; "" where it does not say."""
    with zipfile.ZipFile(path) as package:
        facts = [json.loads(package.read(n)) for n in package.namelist() if n.endswith(_FACTS)]
    return next((str(f["AOTI_CPU_ISA"]) for f in facts if f.get("AOTI_CPU_ISA")), "")


def _bare(library: bytes) -> bytes:
    """A shared library without what only a debugger reads; itself where there is no GNU strip."""
    tool = shutil.which("strip")
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        file = Path(folder) / "network.so"
        file.write_bytes(library)
        if tool:
            subprocess.run([tool, *_SYMBOLS, str(file)], capture_output=True, check=False)
        return file.read_bytes()
