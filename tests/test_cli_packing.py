"""`packlight pack`, `unpack`, `info` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tasks import trained

import packlight as pl


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line):
    """Command lines in a folder with net.plm and net.plt."""
    trained().save(tmp_path / "net.plm")
    pl.pack(trained(), tmp_path / "net.plt")
    monkeypatch.chdir(tmp_path)
    return command_line


def test_pack_says_what_is_downloaded_and_what_memory_holds(run):
    code, out, _ = run("pack", "net.plm", "--out", "small.plt", "--price", "1e-4")
    assert code == 0
    assert "to download" in out and "in memory" in out
    code, out, _ = run("pack", "net.plm", "--out", "small.plt", "--price", "1e-4", "--json")
    assert json.loads(out)["download_bytes"] == Path("small.plt").stat().st_size


def test_a_packed_network_is_taken_by_other_commands(run):
    code, out, _ = run("inspect", "net.plt")
    assert code == 0
    assert "parameters" in out


def test_info_accounts_for_every_byte(run):
    code, out, _ = run("info", "net.plt", "--json")
    found = json.loads(out)
    told = found["header_bytes"] + found["frame_bytes"] + sum(t["bytes"] for t in found["tensors"])
    assert code == 0
    assert told == pytest.approx(Path("net.plt").stat().st_size, abs=1)
    assert 0 <= found["overhead"] < 0.02
    code, out, _ = run("info", "net.plt")
    assert code == 0
    assert "more than their ideal code length" in out


def test_verify_reads_to_the_last_bit(run):
    assert run("verify", "net.plt")[0] == 0
    data = bytearray(Path("net.plt").read_bytes())
    data[len(data) // 2] ^= 1
    Path("net.plt").write_bytes(data)
    code, _, err = run("verify", "net.plt")
    assert code == 2
    assert "its checksum does not fit" in err
    assert len(err.strip().splitlines()) == 1


def test_unpack_writes_what_the_suffix_says(run):
    assert run("unpack", "net.plt", "--out", "again.plm")[0] == 0
    assert pl.load("again.plm").fingerprint() == trained().fingerprint()
    assert run("unpack", "net.plt", "--out", "again.onnx")[0] == 0
    assert Path("again.onnx").stat().st_size > 1000


def test_no_file_is_one_clear_line(run):
    code, _, err = run("info", "missing.plt")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
