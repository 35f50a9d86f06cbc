"""An artifact is what its manifest says, wherever it was copied to, or it is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from faulty import Faulty

from packlight.errors import PacklightError
from packlight.files import sha256
from packlight.targets import Artifact
from packlight.targets.manifest import check_arrays, manifest_path

pytestmark = pytest.mark.usefixtures("faulty_is_known")
IMAGES = {"name": "images", "dtype": "float32", "shape": ["batch", 3, "height", "height"]}
MASK = {"name": "mask", "dtype": "bool", "shape": ["batch"]}
LOGITS = {"name": "logits", "dtype": "float32", "shape": ["batch", 10]}


def made(folder: Path, content: bytes = b"weights", place: str = "net.manifest.json", **facts) -> Artifact:
    """An artifact of one file, made by hand."""
    folder.mkdir(exist_ok=True)
    file = folder / "net.bin"
    file.write_bytes(content)
    manifest = {
        "packlight": 1, "name": "net", "target": "faulty", "form": "well", "versions": {}, "recipe": [], "notes": [],
        "files": {"net.bin": {"bytes": len(content), "sha256": sha256(file)}}, "inputs": [IMAGES, MASK],
        "outputs": [LOGITS], "dims": {"batch": 2, "height": 8}, "limits": {"height": [4, 16]}, "preprocessing": {},
    }  # fmt: skip
    (folder / place).write_text(json.dumps({**manifest, **facts}))
    return Artifact(file, Faulty(), {**manifest, **facts})


@pytest.mark.parametrize(
    ("place", "given"),
    [
        ("net.manifest.json", "net.bin"), ("net.manifest.json", "net.manifest.json"), ("manifest.json", "net.bin"),
        ("manifest.json", "manifest.json"), ("manifest.json", "."),
    ],
)  # fmt: skip
def test_an_artifact_opens_from_its_file_its_manifest_or_its_folder(tmp_path, place, given):
    made(tmp_path, place=place)
    opened = Artifact.open(tmp_path / given)
    assert opened.path.samefile(tmp_path / "net.bin")
    assert (opened.target.name, opened.bytes, opened.fixed_batch) == ("faulty", 7, None)


def test_a_file_beside_the_manifest_of_another_is_not_taken_for_it(tmp_path):
    made(tmp_path, place="manifest.json")
    (tmp_path / "other.bin").write_bytes(b"x")
    with pytest.raises(PacklightError, match=r"no manifest beside .*other\.bin lists it"):
        Artifact.open(tmp_path / "other.bin")


@pytest.mark.parametrize("given", ["nothing.bin", "nothing.json", "."])
def test_where_there_is_nothing_the_error_says_what_to_give(tmp_path, given):
    with pytest.raises(PacklightError, match=r"no file or folder|give the folder or file that packlight wrote"):
        Artifact.open(tmp_path / given)


DAMAGE = {
    "missing": (lambda file: file.unlink(), "is missing"),
    "longer": (lambda file: file.write_bytes(b"weights and more"), "size or sha256 differs"),
    "one_bit": (lambda file: file.write_bytes(b"weighta"), "size or sha256 differs"),
    "a_folder": (lambda file: (file.unlink(), file.mkdir()), "size or sha256 differs|cannot read"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named(tmp_path, damage, told):
    artifact = made(tmp_path)
    artifact.verify()
    damage(artifact.path)
    with pytest.raises(PacklightError, match=rf"net\.bin.*({told})|({told}).*net\.bin"):
        artifact.verify()
    with pytest.raises(PacklightError):
        Artifact.open(tmp_path / "net.manifest.json")


def listing(name: str) -> dict:
    return {"files": {name: {"bytes": 1, "sha256": 64 * "0"}}}


FORGED = {
    "other_version": ({"packlight": 2}, "its format is 2, this packlight reads 1"),
    "a_file_above": (listing("../net.bin"), "outside its folder"),
    "a_file_below": (listing("sub/net.bin"), "outside its folder"),
    "an_absolute_file": (listing("/etc/passwd"), "outside its folder"),
    "the_folder_itself": (listing(".."), "outside its folder"),
    "a_windows_path": (listing("..\\net.bin"), "outside its folder"),
    "an_empty_name": (listing(""), "outside its folder"),
    "no_file": ({"files": {}}, "lists no file"),
    "files_as_a_list": ({"files": ["net.bin"]}, "no packlight manifest"),
    "no_hash": ({"files": {"net.bin": {"bytes": 1}}}, "it has no 'sha256'"),
    "a_size_in_words": ({"files": {"net.bin": {"bytes": "7", "sha256": 64 * "0"}}}, "needs a size and a sha256"),
    "a_short_hash": ({"files": {"net.bin": {"bytes": 7, "sha256": "00"}}}, "needs a size and a sha256"),
    "target_is_no_text": ({"target": None}, "'target' is not text"),
    "unknown_target": ({"target": "abacus"}, "no target 'abacus'; known are"),
    "inputs_are_text": ({"inputs": "images"}, "no packlight manifest"),
    "input_without_shape": ({"inputs": [{"name": "x", "dtype": "float32"}]}, "it has no 'shape'"),
    "negative_size": ({"inputs": [{**IMAGES, "shape": [-1]}]}, "is not of sizes and names"),
    "limits_out_of_order": ({"limits": {"height": [3, 1]}}, "limits are out of order"),
    "limits_in_words": ({"limits": {"height": ["a", "b", "c"]}}, "no packlight manifest"),
}


@pytest.mark.parametrize(("facts", "told"), FORGED.values(), ids=FORGED)
def test_a_malformed_manifest_is_one_line_with_its_place(tmp_path, facts, told):
    made(tmp_path, **facts)
    with pytest.raises(PacklightError, match=told) as caught:
        Artifact.open(tmp_path / "net.manifest.json")
    assert "net.manifest.json" in str(caught.value) and "\n" not in str(caught.value)


CONTENTS = {
    "empty": b"", "cut": b'{"packlight": 1, "fi', "binary": b"\xff\x00", "deep": b"[" * 100_000, "a_list": b"[1]",
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_is_no_json_object_is_no_manifest(tmp_path, content):
    made(tmp_path)
    (tmp_path / "net.manifest.json").write_bytes(content)
    with pytest.raises(PacklightError, match=r"net\.manifest\.json is no packlight manifest") as caught:
        Artifact.open(tmp_path / "net.bin")
    assert "\n" not in str(caught.value)


def test_a_saved_artifact_is_complete_in_its_folder(tmp_path):
    saved = made(tmp_path / "from").save(tmp_path / "a" / "b", {"measurements": {"latency_ms": 2.5}})
    again = Artifact.open(tmp_path / "a" / "b")
    assert again == saved
    assert again.manifest["measurements"] == {"latency_ms": 2.5}
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["manifest.json", "net.bin"]


def test_saving_an_artifact_where_it_is_keeps_it(tmp_path):
    artifact = made(tmp_path)
    artifact.save(tmp_path)
    Artifact.open(tmp_path).verify()


def test_a_damaged_artifact_is_not_copied(tmp_path):
    artifact = made(tmp_path / "from")
    artifact.path.write_bytes(b"damaged")
    with pytest.raises(PacklightError, match="sha256 differs"):
        artifact.save(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_saving_to_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path, small_disk):
    old = made(tmp_path / "old", b"old").save(small_disk)
    with pytest.raises(PacklightError, match=r"cannot write .*No space left"):
        made(tmp_path / "new", bytes(100_000)).save(small_disk)
    assert sorted(p.name for p in small_disk.iterdir()) == ["manifest.json", "net.bin"]
    assert Artifact.open(small_disk) == old


def test_a_disk_that_holds_the_file_but_not_its_manifest_gets_neither(tmp_path, small_disk):
    with pytest.raises(PacklightError, match="No space left"):
        made(tmp_path / "new", bytes(60_000)).save(small_disk, {"notes": ["x" * 10_000]})
    assert not list(small_disk.iterdir())


def test_saving_to_a_read_only_folder_is_one_line(tmp_path, read_only):
    with pytest.raises(PacklightError, match=r"cannot write to folder .*Read-only file system"):
        made(tmp_path / "from").save(read_only / "out")
    assert not list(read_only.iterdir())


def arrays(batch: int = 2, height: int = 8, **other) -> tuple:
    images = other.get("images", np.zeros((batch, 3, height, height), np.float32))
    return images, other.get("mask", np.ones(batch, bool))


def test_inputs_that_fit_are_handed_on(tmp_path):
    facts = made(tmp_path).manifest
    assert [a.shape for a in check_arrays(facts, arrays(5, 16))] == [(5, 3, 16, 16), (5,)]


GREY, FLAT, OBLONG = (np.zeros(shape, np.float32) for shape in ((2, 1, 8, 8), (2, 3, 8), (2, 3, 8, 9)))
WRONG = {
    "one_missing": (arrays()[:1], "net takes 2 inputs (images, mask), got 1"),
    "dtype": (arrays(mask=np.ones(2)), "input 'mask' is float64, the file takes bool[batch]; convert the data"),
    "channels": (arrays(images=GREY), "input 'images' has shape [2, 1, 8, 8], the file takes"),
    "axes": (arrays(images=FLAT), "input 'images' has shape [2, 3, 8], the file takes"),
    "batches_differ": (arrays(mask=np.ones(3, bool)), "has shape [3], the file takes bool[batch] with batch = 2"),
    "not_square": (arrays(images=OBLONG), "with batch = 2, height = 8"),
    "beyond_limits": (arrays(height=17), "dimension 'height' is 17, net takes 4 to 16"),
}


@pytest.mark.parametrize(("given", "told"), WRONG.values(), ids=WRONG)
def test_inputs_that_do_not_fit_are_named(tmp_path, given, told):
    with pytest.raises(PacklightError) as caught:
        check_arrays(made(tmp_path).manifest, given)
    assert told in str(caught.value)


def test_a_fixed_batch_is_known(tmp_path):
    assert made(tmp_path, inputs=[{**IMAGES, "shape": [4, 3, 8, 8]}]).fixed_batch == 4
    assert made(tmp_path, inputs=[]).fixed_batch is None


def test_the_manifest_of_a_file_stands_beside_it():
    assert manifest_path(Path("out/net.v2.onnx")) == Path("out/net.v2.manifest.json")
