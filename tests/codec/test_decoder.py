"""decoders/plt.c, written from docs/plt.md alone, gives the same bytes as packlight does."""

import subprocess
import zlib
from functools import cache

import pytest
import torch
from made_files import FLOATS, INTEGERS, SOURCE, bits_of, name_of, save_tensors, sizes_of, tensors_of, verdict
from safetensors.torch import load_file

import packlight as pl
from packlight.codec import Coder, load_packed, read_packed, save_packed
from packlight.codec.forms import TYPES, Kind
from packlight.codec.text import primer
from packlight.model.integers import freeze
from packlight.networks import lenet5, resnet8, transformer_classifier
from packlight.testing.examples import random_task

CODERS = [pytest.param(c, id=c.name.lower()) for c in Coder]


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


FORMS = [(kind, dtype) for kind in Kind for dtype in TYPES if tensors_of(kind, dtype)]


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(("kind", "dtype"), FORMS, ids=[f"{k.name.lower()}-{d}" for k, d in FORMS])
def test_every_form_is_the_same_to_both_decoders(kind, dtype, coder, decoder, checked_decoder, tmp_path):
    tensors = tensors_of(kind, dtype)
    save_tensors(tmp_path / "t.plt", tensors, coder, document='{"ä": "\\n"}')
    checked = run(checked_decoder, tmp_path / "t.plt", tmp_path / "t.plm")
    assert (checked.returncode, checked.stderr) == (0, "")
    again = load_file(tmp_path / "t.plm")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (name_of(again[name]), again[name].shape) == (dtype, tensor.shape)
        assert bits_of(again[name]).tobytes() == bits_of(tensor).tobytes(), name
    rows = [row.split("\t") for row in run(decoder, "--list", tmp_path / "t.plt").stdout.splitlines()]
    assert [row[:3] for row in rows] == [[n, dtype, ",".join(map(str, t.shape))] for n, t in tensors.items()]
    assert kind.name.lower() in {row[3] for row in rows} or (kind == Kind.WORDS and dtype.startswith("float8")), rows


def test_the_forms_are_all_there_are():
    assert {(kind, dtype) for kind, dtype in FORMS} == (
        {(kind, dtype) for kind in (Kind.RAMP, Kind.LEVELS) for dtype in INTEGERS}
        | {(kind, dtype) for kind in (Kind.TABLE, Kind.SPARSE, Kind.WORDS) for dtype in FLOATS}
        | {(Kind.RAW, dtype) for dtype in TYPES} | {(kind, "float32") for kind in (Kind.STEPS, Kind.WAVES)}
    )  # fmt: skip


NETWORKS = {
    "lenet5": lambda: pl.load(lenet5().eval(), torch.randn(2, 1, 28, 28), name="lenet5"),
    "resnet8": lambda: pl.load(resnet8().eval(), torch.randn(2, 1, 28, 28), name="resnet8"),
    "transformer": lambda: pl.load(
        transformer_classifier(classes=3, tokens=8, width=8, layers=2, heads=2).eval(),
        (torch.randint(0, 50, (2, 8)), torch.ones(2, 8, dtype=torch.int64)),
    ),
}


@cache
def network(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("form", ["float", "int8", "table"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_opens_as_it_was(name, form, coder, decoder, tmp_path):
    model = network(name)
    if form == "int8":
        model = freeze(pl.quantize(model, random_task(model), samples=8))
    elif form == "table":
        model = pl.share_weights(model, bits=3)
    save_packed(model, tmp_path / "net.plt", coder)
    assert run(decoder, tmp_path / "net.plt", tmp_path / "net.plm").returncode == 0
    mine, again = load_packed(tmp_path / "net.plt"), pl.load(tmp_path / "net.plm")
    assert mine.named_tensors().keys() == again.named_tensors().keys()
    for tensor_name, tensor in mine.named_tensors().items():
        other = again.named_tensors()[tensor_name]
        assert (name_of(tensor), tensor.shape) == (name_of(other), other.shape)
        assert bits_of(tensor).tobytes() == bits_of(other).tobytes(), tensor_name
    inputs = model.example_inputs(3)
    assert torch.equal(model(*inputs), again(*inputs))


def test_a_network_of_several_streams_opens_as_it_was(decoder, tmp_path):
    torch.manual_seed(0)
    tensors = {f"layer{i}": (torch.randn(1100, 1000) * (i + 1)).round() * 0.01 for i in range(3)}
    save_tensors(tmp_path / "t.plt", tensors, Coder.FAST)
    assert run(decoder, "--check", tmp_path / "t.plt").stdout == verdict(tmp_path / "t.plt") + "\n"


def test_it_carries_the_primer_that_packlight_reads():
    """After the primer changed: put these lines where the old ones stand."""
    assert as_c(primer().decode()) in SOURCE.read_text(encoding="utf-8")


def test_the_specification_names_the_primer_that_packlight_reads():
    named = f"{len(primer()):,} bytes, CRC-32 0x{zlib.crc32(primer()):08X}"
    assert named in (SOURCE.parents[1] / "docs" / "plt.md").read_text(encoding="utf-8")


def as_c(text):
    rows = [""]
    for letter in text:
        rows[-1] += {"\n": "\\n", '"': '\\"', "\\": "\\\\"}.get(letter, letter)
        if letter == "\n" or len(rows[-1]) >= 108:
            rows.append("")
    lines = "".join(f'    "{row}",\n' for row in rows if row)
    return f"static const char *const PRIMER[] = {{\n{lines}}};\n"


def test_a_refused_file_is_two_and_a_line_and_leaves_nothing_behind(decoder, tmp_path):
    save_tensors(tmp_path / "t.plt", {"t": torch.randn(50)}, Coder.SMALL)
    whole = (tmp_path / "t.plt").read_bytes()
    (tmp_path / "cut.plt").write_bytes(whole[:-1])
    (tmp_path / "t.plm").write_bytes(b"what was there before")
    done = run(decoder, tmp_path / "cut.plt", tmp_path / "t.plm")
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}/cut.plt: its checksum does not fit\n"
    assert (tmp_path / "t.plm").read_bytes() == b"what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.plt", "t.plm", "t.plt"]


@pytest.mark.parametrize("words", [(), ("a",), ("--check",), ("a", "b", "c")], ids=len)
def test_other_words_are_answered_with_what_it_takes(words, decoder):
    done = run(decoder, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("plt IN.plt OUT.plm")


def test_a_file_that_is_not_there_and_a_folder_are_refused(decoder, tmp_path):
    for path in (tmp_path / "none.plt", tmp_path):
        done = run(decoder, path, tmp_path / "out.plm")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    save_tensors(tmp_path / "t.plt", {"t": torch.randn(50)}, Coder.SMALL)
    assert run(decoder, tmp_path / "t.plt", tmp_path / "no" / "out.plm").returncode == 2


def test_all_of_a_read_packed_file_is_listed(decoder, tmp_path):
    save_packed(network("lenet5"), tmp_path / "net.plt", Coder.FAST)
    _, header, parts = read_packed(tmp_path / "net.plt")
    stream = header.streams[0]
    want = [
        f"{e.name}\t{e.dtype}\t{sizes_of(e)}\t{part.kind.name.lower()}\t{stream.coder.name.lower()}"
        for e, part in zip(stream.entries, parts, strict=True)
    ]
    assert run(decoder, "--list", tmp_path / "net.plt").stdout.splitlines() == want
