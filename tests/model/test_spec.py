"""Specs and the nesting of outputs."""

from __future__ import annotations

import pytest

from packlight.errors import PacklightError
from packlight.model.spec import TensorSpec, check_structure, leaf_names, restructure

SPEC = TensorSpec("x", "float32", ("batch", 3, "width"))


def test_binding_records_dynamic_sizes():
    dims = {"batch": 2}
    SPEC.bind((2, 3, 9), dims, "float32")
    assert dims == {"batch": 2, "width": 9}


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((2, 4, 9), None, r"got shape \[2, 4, 9\], the model takes float32\[batch, 3, width\] with batch = 2"),
        ((2, 3), None, r"got shape \[2, 3\]"),
        ((3, 3, 9), None, "with batch = 2"),
        ((2, 3, 9), "float64", r"got float64, the model takes float32\[batch, 3, width\]; convert it first"),
    ],
    ids=["size", "rank", "other batch", "dtype"],
)
def test_binding_what_does_not_fit_is_one_line(shape, dtype, reason):
    with pytest.raises(PacklightError, match=f"input 'x': .*{reason}"):
        SPEC.bind(shape, {"batch": 2}, dtype)


def test_sizes_need_every_dynamic_dimension():
    assert SPEC.sizes({"batch": 2, "width": 5, "other": 1}) == (2, 3, 5)
    with pytest.raises(PacklightError, match="no size given for dimension 'width'"):
        SPEC.sizes({"batch": 2})


NESTED = {"dict": {"a": 0, "b": {"list": [1, None, {"tuple": [2]}]}}}


def test_outputs_are_nested_as_described():
    assert restructure(NESTED, "xyz") == {"a": "x", "b": ["y", None, ("z",)]}
    assert restructure(0, "x") == "x"


def test_outputs_are_named_by_their_path():
    assert leaf_names(NESTED) == {0: "a", 1: "b.0", 2: "b.2.0"}
    assert leaf_names(0) == {0: "output"}
    assert leaf_names({"tuple": [0, 1]}) == {0: "output_0", 1: "output_1"}


def test_a_structure_must_name_every_output_once():
    check_structure(NESTED, 3)
    for structure, outputs in ((NESTED, 2), (NESTED, 4), ({"list": [1, 0]}, 2), ({"list": [0, 0]}, 2), (-1, 1)):
        with pytest.raises(PacklightError, match="the output structure names"):
            check_structure(structure, outputs)


@pytest.mark.parametrize(
    "structure", [True, "x", 1.5, [0], {"list": 0}, {"set": [0]}, {"list": [0], "tuple": []}, {}], ids=str
)
def test_a_structure_of_something_else_is_refused(structure):
    with pytest.raises(PacklightError, match="output structure"):
        check_structure(structure, 1)
