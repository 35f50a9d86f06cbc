"""What all built-in readers share: where they look, what they refuse, what importing them costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from packlight.errors import PacklightError
from packlight.task.readers import READERS, sentence_encoder_files
from packlight.task.readers.places import SYSTEM, find_folder, read_file, read_files

ROOT = Path(__file__).parents[2]


def test_importing_the_readers_imports_no_decoder():
    heavy = {"soundfile", "tokenizers", "torch", "scipy", "sklearn"}
    code = f"import packlight.task.readers, sys; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


@pytest.mark.parametrize("name", ["mandarin-tones", "bbc-news", "spam-assassin", "brown"])
def test_a_missing_data_set_is_one_line_that_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SYSTEM, name, str(tmp_path / "none"))
    with pytest.raises(PacklightError, match=rf"no folder '{name}' in .*scripts/get_data.sh {name}") as error:
        READERS[name]()
    assert "\n" not in str(error.value)


def test_the_users_folder_comes_before_the_systems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path / "mine"))
    monkeypatch.setitem(SYSTEM, "x", str(tmp_path / "system"))
    for place in ("system", ".data/x", "mine/x"):
        (tmp_path / place).mkdir(parents=True)
        assert find_folder("x").resolve() == tmp_path / place


def test_a_sentence_encoder_that_lacks_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    folder = tmp_path / "sentence-encoder"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PacklightError, match=r"lacks model.safetensors, config.json; remove it and run `scripts"):
        sentence_encoder_files()


# files from strangers


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(PacklightError, match="x is larger than 4 bytes"):
        read_file(tmp_path / "x", 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(PacklightError, match=r"a.txt is no regular file"):
        list(read_files(tmp_path, "*.txt", 10, 10))


def test_a_dangling_link_is_one_line(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PacklightError, match=r"cannot read .*a.txt: No such file"):
        list(read_files(tmp_path, "*.txt", 10, 10))


def test_all_files_together_have_a_limit(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_bytes(b"12345")
    assert [path.name for path, _ in read_files(tmp_path, "*.txt", 5, 15)] == ["0.txt", "1.txt", "2.txt"]
    with pytest.raises(PacklightError, match=r"more than 14 bytes of \*.txt"):
        list(read_files(tmp_path, "*.txt", 5, 14))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(PacklightError, match=r"holds no file \*.txt; remove it and fetch it again"):
        list(read_files(tmp_path, "*.txt", 5, 15))


# what is written about them


def test_the_page_on_data_tells_the_written_splits():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    written = json.loads(resources.files("packlight.task.readers").joinpath("splits.json").read_text())
    assert set(written) <= set(READERS)
    for name, parts in written.items():
        counts = " | ".join(f"{parts[part]['samples']:,}" for part in ("train", "calibration", "validation", "test"))
        assert f"| `{name}` | {counts} |" in page


@pytest.mark.parametrize("name", READERS)
def test_the_page_on_data_describes_each_task(name):
    assert f"`{name}`" in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
