"""The operator table: names, arguments, and what it lets through."""

from __future__ import annotations

import math

import pytest
import torch
from captures import captured
from torch.fx import Graph
from zoo import ZOO

from packlight.model.operators import (
    KIND,
    MODE_ARGUMENTS,
    PYTHON_FUNCTIONS,
    argument,
    kind,
    packet,
    resolve,
    set_argument,
    target_name,
)

aten = torch.ops.aten


def made(target, *args, **kwargs):
    return Graph().call_function(target, args, kwargs)


@pytest.mark.parametrize("name", ZOO)
def test_every_operator_of_the_zoo_resolves_to_itself(name):
    for node in captured(name).model.nodes:
        if node.op == "call_function":
            assert resolve(target_name(node)) is node.target


def test_every_allowed_operator_is_free_of_side_effects():
    for name in KIND:
        found = getattr(aten, name, None)
        for overload in found.overloads() if found is not None else ():
            operator = resolve(f"aten.{name}.{overload}")
            assert operator is None or not operator._schema.is_mutable


def test_every_python_function_resolves():
    assert all(resolve(f"python.{n}") is f for n, f in PYTHON_FUNCTIONS.items())


@pytest.mark.parametrize(
    "name",
    ["aten.relu_.default", "aten.add.out", "aten.relu.op", "aten.relu", "aten", "", "python.", "prim.add.default"],
)
def test_what_is_not_in_the_table_does_not_resolve(name):
    assert resolve(name) is None


def test_an_operator_of_another_library_is_not_taken_for_atens():
    library = torch.library.Library("packlight_other", "DEF")
    library.define("relu(Tensor x) -> Tensor")
    node = made(torch.ops.packlight_other.relu.default, 1)
    assert (packet(node), kind(node), target_name(node)) == ("relu", "", None)


def test_arithmetic_on_sizes_has_a_kind_of_its_own():
    assert kind(made(math.floor, 1.5)) == "size"
    assert kind(made(PYTHON_FUNCTIONS["getitem"], (1,), 0)) == "select"
    assert kind(made(print, 1)) == ""


def test_arguments_are_read_by_name_wherever_they_stand():
    node = made(aten.conv2d.default, 1, 2, None, [2, 2])
    assert argument(node, "stride") == [2, 2]
    assert argument(node, "groups") == 1
    assert argument(made(aten.zeros.default, [3], dtype=torch.int8), "dtype") is torch.int8
    with pytest.raises(KeyError, match="no argument 'x'"):
        argument(node, "x")


def test_arguments_are_set_by_name_wherever_they_stand():
    node = made(aten.conv2d.default, 1, 2)
    set_argument(node, "groups", 4)
    assert argument(node, "groups") == 4
    assert argument(node, "bias") is None
    assert len(node.args) == 7
    node = made(aten.scaled_dot_product_attention.default, 1, 2, 3, dropout_p=0.5)
    set_argument(node, "dropout_p", 0.0)
    set_argument(node, "scale", 0.25)
    assert dict(node.kwargs) == {"dropout_p": 0.0, "scale": 0.25}


def test_every_argument_that_training_changes_exists():
    for name, arguments in MODE_ARGUMENTS.items():
        schema = getattr(getattr(aten, name), getattr(aten, name).overloads()[0])._schema
        assert set(arguments) <= {a.name for a in schema.arguments}
