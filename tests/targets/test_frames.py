"""Messages between parent and child survive, or end in EOFError."""

import io
import json
import struct

import numpy as np
import pytest

from packlight.errors import PacklightError
from packlight.targets import frames
from packlight.targets.frames import read_frame, write_frame

DTYPES = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 complex64 complex128 >f4 >i2"
ARRAYS = {
    "zero_size": np.zeros((0, 3), np.float32),
    "zero_size_inside": np.zeros((2, 0, 3), np.int64),
    "no_axes": np.array(3.5, np.float32),
    "python_number": 3,
    "transposed": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    "strided": np.arange(10, dtype=np.float32)[::3],
    "reversed": np.arange(4, dtype=np.float64)[::-1],
    "broadcast": np.broadcast_to(np.float32(2), (3, 2)),
    "fortran_order": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "read_only": np.frombuffer(b"abcd", np.uint8),
}


def framed(header, arrays=()):
    stream = io.BytesIO()
    write_frame(stream, header, arrays)
    return stream.getvalue()


def headed(header: object, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def described(dtype, shape) -> bytes:
    return headed({"arrays": [[dtype, shape]]}, b"\0" * 64)


@pytest.mark.parametrize("dtype", DTYPES.split())
def test_an_array_of_this_dtype_comes_back(dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    _, (back,) = read_frame(io.BytesIO(framed({}, [array])))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_an_array_of_this_layout_comes_back(array):
    _, (back,) = read_frame(io.BytesIO(framed({}, [array])))
    assert back.shape == np.shape(array)
    np.testing.assert_array_equal(back, array)
    back[...] = 0  # the receiver may write to it


def test_headers_and_several_messages_in_a_row_come_back():
    headers = [{"call": "open", "arguments": {"path": "ä b.onnx", "n": None}}, {}, {"result": [1, 2.5, True]}]
    stream = io.BytesIO(b"".join(framed(h, [np.ones(i)] * i) for i, h in enumerate(headers)))
    for i, header in enumerate(headers):
        got, arrays = read_frame(stream)
        assert got == header
        assert [a.sum() for a in arrays] == [i] * i


NOT_NUMBERS = {"text": np.array(["a"]), "object": np.array([object()]), "record": np.zeros(2, [("x", "i4")])}


@pytest.mark.parametrize("array", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_arrays_of_anything_but_numbers_are_refused_before_a_byte_is_sent(array):
    stream = io.BytesIO()
    with pytest.raises(PacklightError, match="only numbers and booleans"):
        write_frame(stream, {}, [array])
    assert not stream.getvalue()


def test_more_than_the_limit_is_refused_on_both_sides(monkeypatch):
    sent = framed({}, [np.zeros(100)])
    monkeypatch.setattr(frames, "_MAX_ARRAYS", 799)
    with pytest.raises(PacklightError, match="smaller batch"):
        write_frame(io.BytesIO(), {}, [np.zeros(100)])
    with pytest.raises(EOFError, match="too large"):
        read_frame(io.BytesIO(sent))


def test_a_message_cut_anywhere_is_an_end():
    whole = framed({"a": 1}, [np.arange(3), np.ones((2, 2))])
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            read_frame(io.BytesIO(whole[:length]))


FORGED = {
    "length_of_2_to_the_63": struct.pack("<Q", 2**63) + b"x",
    "not_json": headed(b"\xff\xfe{"),
    "not_an_object": headed([1, 2]),
    "no_arrays": headed({}),
    "deep_nesting": headed(b"[" * 100_000),
    "arrays_of_nonsense": headed({"arrays": [5]}),
    "unknown_dtype": described("float99", [2]),
    "object_dtype": described("|O", [2]),
    "text_dtype": described("<U4", [2]),
    "list_for_a_dtype": described([["a", "<f4"]], [2]),
    "negative_size": described("<f4", [-1]),
    "two_negative_sizes": described("<f4", [-2, -2]),
    "fractional_size": described("<f4", [1.5]),
    "boolean_size": described("<f4", [True]),
    "overflowing_product": described("<f4", [2**33, 2**33]),
    "petabytes": described("<f8", [2**34]),
    "more_than_was_sent": described("<f4", [1000]),
    "too_many_axes": described("<f4", [1] * 65),
}  # fmt: skip


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_forged_messages_are_an_end_and_take_no_memory(content):
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(content))


def test_an_array_that_memory_cannot_hold_is_an_end(monkeypatch):
    def refuse(*shape):
        raise MemoryError

    monkeypatch.setattr(frames.np, "empty", refuse)
    with pytest.raises(EOFError, match="more than fits into memory"):
        read_frame(io.BytesIO(described("<f4", [4])))
