"""Graphs that someone forged to harm: refused in one line, nothing executed."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest
import torch
from forge import CODE, PROOF, forged, parts, refused

from packlight import load
from packlight.model import Model
from packlight.passes.codebooks import Codebooks, share_weights

pytestmark = pytest.mark.usefixtures("nothing_is_executed")


def node(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(n for n in document["nodes"] if n["name"] == name)


def insert(document: dict[str, Any], target: str, *args: Any, **kwargs: Any) -> None:
    """One more operator, before the output."""
    made = {"op": "call_function", "name": "evil", "target": target, "args": list(args), "kwargs": kwargs}
    document["nodes"].insert(-1, made)


def test_the_forger_can_make_a_good_file(good):
    model = Model.load(forged(*parts(good)))
    assert model(torch.ones(1, 4)).equal(Model.load(good)(torch.ones(1, 4)))


X = {"node": "linear"}
SIZES = "takes sizes"

OPERATORS = {
    "reads a file": ("aten.from_file.default", ["/etc/passwd", False, 10], "not in packlight's operator table"),
    "python builtin": ("builtins.eval", [CODE], "not in packlight's operator table"),
    "os": ("os.system", [f"touch {PROOF}"], "not in packlight's operator table"),
    "python function": ("python.exec", [CODE], "not in packlight's operator table"),
    "attribute of an operator": ("aten.relu.__class__", ["x"], "not in packlight's operator table"),
    "method of an operator": ("aten.relu.overloads", [], "not in packlight's operator table"),
    "private method": ("aten.relu.__init__", [], "not in packlight's operator table"),
    "namespace trick": ("aten.relu.default.__call__", [X], "not in packlight's operator table"),
    "other namespace": ("prims.relu.default", [X], "not in packlight's operator table"),
    "in place": ("aten.relu_.default", [X], "not in packlight's operator table"),
    "writes into out": ("aten.add.out", [X, X], "not in packlight's operator table"),
    "raw memory": ("aten.as_strided.default", [X, [1 << 40], [1]], "not in packlight's operator table"),
    "sets storage": ("aten.set_.default", [X], "not in packlight's operator table"),
    "no overload": ("aten.relu", [X], "not in packlight's operator table"),
    "empty": ("", [], "not in packlight's operator table"),
    "terabytes": ("aten.full.default", [[10**12], 1.0], "would take 4,000,000,000,000 bytes"),
    "terabytes of range": ("aten.arange.default", [10**12], "would take"),
    "terabytes of identity": ("aten.eye.default", [10**6], "would take"),
    "terabytes by repetition": ("aten.repeat.default", [X, [10**6, 10**6]], "would take"),
    "more than a size can be": ("aten.full.default", [[10**30], 1.0], "does not fit|malformed"),
    "overflow": ("aten.zeros.default", [[2**62, 2**62]], "does not fit|malformed|would take"),
    "negative size": ("aten.zeros.default", [[-5]], "does not fit|malformed"),
    "string times number": ("python.mul", ["aaaaaaaa", 10**12], SIZES),
    "list times number": ("python.mul", [[1], 10**12], SIZES),
    "huge power": ("python.pow", [10, 10**12], SIZES),
    "division by zero": ("python.floordiv", [1, 0], "does not fit"),
    "data-dependent size": ("aten.item.default", [X], "depends on the values|does not fit|malformed"),
    "wrong types": ("aten.relu.default", ["x"], "does not fit|malformed"),
    "too many arguments": ("aten.relu.default", [X, X, X], "does not fit|malformed"),
    "wrong shapes": ("aten.bmm.default", [X, X], "does not fit|malformed"),
    "lstm without states": ("aten.lstm.input", [X], "does not fit|malformed"),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operator_that_could_harm_is_refused(case, good):
    target, args, reason = OPERATORS[case]
    document, tensors = parts(good)
    insert(document, target, *args)
    refused(forged(document, tensors), reason)


def test_refusing_terabytes_allocates_nothing(good):
    document, tensors = parts(good)
    insert(document, "aten.full.default", [10**12], 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(forged(document, tensors), "would take")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the tensor would be 4 TB


NAMES = {
    "code": f"x); {CODE}; (",
    "newline": f"x\n    {CODE}\n    y",
    "call": CODE,
    "dotted": "a.b",
    "empty": "",
    "digit first": "1x",
    "very long": "x" * 300,
    "number": 7,
    "list": ["x"],
    "nothing": None,
}


@pytest.mark.parametrize("case", NAMES)
def test_code_in_a_node_name_is_refused(case, good):
    document, tensors = parts(good)
    node(document, "relu")["name"] = NAMES[case]
    refused(forged(document, tensors), "is not a new identifier|malformed")


@pytest.mark.parametrize("case", ["code", "newline", "call", "dotted", "empty"])
def test_code_in_an_argument_name_is_refused(case, good):
    document, tensors = parts(good)
    node(document, "relu")["kwargs"] = {NAMES[case]: 1}
    refused(forged(document, tensors), "is not an argument name")


def test_a_python_keyword_as_argument_name_is_refused(good):
    document, tensors = parts(good)
    node(document, "relu")["kwargs"] = {"lambda": 1}
    refused(forged(document, tensors), "malformed")


@pytest.mark.parametrize(
    "name", ["0.bias", "1.weight", "forward", "graph._code", "__class__", f"x.{CODE}", "a'b", 'a"b', "../x"]
)
def test_a_get_attr_of_what_is_no_tensor_of_the_file_is_refused(name, good):
    document, tensors = parts(good)
    getter = next(n for n in document["nodes"] if n["op"] == "get_attr")
    tensors.pop(name, None)
    getter["target"] = name
    refused(forged(document, tensors), "which the file lacks|malformed")


@pytest.mark.parametrize(
    "name",
    ["forward", "__class__", "__dict__.x", "graph", "graph.x", "_parameters", "_parameters.x", "code", "recompile",
     "training", "0.forward", "0.__class__", f'x" + {CODE} + "', "a'b", "a b.", ".", "", "x" * 300,
     "class", "a.lambda", "é"],
)  # fmt: skip
def test_a_tensor_name_that_would_reach_code_or_torchs_attributes_is_refused(name, good):
    document, tensors = parts(good)
    refused(forged(document, tensors | {name: torch.zeros(1)}), "tensor name")


def test_strings_as_arguments_stay_strings(good):
    document, tensors = parts(good)
    insert(document, "aten.relu.default", f"'); {CODE}; ('")
    refused(forged(document, tensors), "does not fit|malformed")


VALUES = {
    "unknown reference": {"node": "nowhere"},
    "reference to a later node": {"node": "linear_1"},
    "reference to itself": {"node": "relu"},
    "reference with more": {"node": "linear", "x": 1},
    "unknown kind": {"pickle": "gASV"},
    "unknown dtype": {"dtype": "__class__"},
    "unknown layout": {"layout": "os"},
    "unknown memory format": {"memory_format": "eval"},
    "float that is none": {"float": "x"},
    "slice of too few": {"slice": [1]},
    "empty": {},
}


@pytest.mark.parametrize("case", VALUES)
def test_an_argument_that_is_no_plain_value_is_refused(case, good):
    document, tensors = parts(good)
    node(document, "relu")["args"] = [VALUES[case]]
    refused(forged(document, tensors), "used before it is made|is not a graph argument|malformed")


def edit_nodes(change):
    def edit(document, tensors):
        change(document["nodes"])

    return edit


def setting(key, value):
    def edit(document, tensors):
        document[key] = value

    return edit


def without(key):
    def edit(document, tensors):
        del document[key]

    return edit


def mode(name, argument, values):
    def edit(document, tensors):
        node(document, name)["modes"] = {argument: values}

    return edit


DOCUMENTS = {
    "twice the same node": (edit_nodes(lambda n: n.insert(1, dict(n[0]))), "is not a new identifier"),
    "no output": (edit_nodes(lambda n: n.pop()), "no other, is its output"),
    "two outputs": (edit_nodes(lambda n: n.append({**n[-1], "name": "again"})), "no other, is its output"),
    "an output of numbers": (edit_nodes(lambda n: n[-1].update(args=[[1]])), "output is one list of nodes"),
    "an output without arguments": (edit_nodes(lambda n: n[-1].pop("args")), "output is one list of nodes"),
    "an output too many": (edit_nodes(lambda n: n[-1].update(args=[n[-1]["args"][0] * 2])), "malformed"),
    "an input too many": (edit_nodes(lambda n: n.insert(0, {"op": "placeholder", "name": "x"})), "takes 2 inputs"),
    "a node of unknown kind": (edit_nodes(lambda n: n.insert(0, {"op": "call_module", "name": "x"})), "unknown kind"),
    "a method call": (
        edit_nodes(lambda n: n.insert(0, {"op": "call_method", "name": "x", "target": "eval"})),
        "unknown kind",
    ),
    "no nodes": (setting("nodes", []), "takes 0 inputs, it describes 1"),
    "nodes that are text": (setting("nodes", "x"), "a graph is a list"),
    "nodes that are numbers": (setting("nodes", [1, 2]), "malformed"),
    "a node without a name": (edit_nodes(lambda n: n[0].pop("name")), "malformed"),
    "another version": (setting("version", 99), "file version 99, this packlight reads 1"),
    "no version": (without("version"), "malformed"),
    "no inputs": (setting("inputs", []), "takes 1 inputs, it describes 0"),
    "an input of unknown dtype": (setting("inputs", [["input", "os.system", ["batch", 4]]]), "unknown dtype"),
    "an input of negative size": (setting("inputs", [["input", "float32", [-1, 4]]]), "is not an integer from 0"),
    "an input of absurd size": (setting("inputs", [["input", "float32", [2**40, 4]]]), "is not an integer from 0"),
    "an input of boolean size": (setting("inputs", [["input", "float32", [True, 4]]]), "is not an integer from 0"),
    "an input of an unknown dimension": (setting("inputs", [["input", "float32", ["n", 4]]]), "no size given"),
    "an output of another shape": (
        setting("outputs", [["output", "float32", ["batch", 3]]]),
        "is described as float32",
    ),
    "an output of another dtype": (setting("outputs", [["output", "int64", ["batch", 2]]]), "is described as int64"),
    "a structure of unknown outputs": (setting("structure", 5), "the output structure names outputs"),
    "a structure that repeats": (setting("structure", [0, 0]), "is not an int, None, list, tuple or dict"),
    "a boolean structure": (setting("structure", False), "holds a boolean"),
    "an empty dynamic dimension": (setting("dims", {"batch": 0}), "has size 0"),
    "a dimension that is text": (setting("dims", {"batch": "2"}), "is not an integer from 0"),
    "limits that are text": (setting("limits", {"batch": ["1", "2"]}), "is not an integer from 0"),
    "notes that are numbers": (setting("notes", [1]), "is not text"),
    "a lineage that is text": (setting("lineage", "x"), "malformed"),
    "a mode of what has none": (mode("relu", "self", [1, 2]), "training does not change its 'self'"),
    "a mode of what training leaves": (mode("batch_norm", "input", [1, 2]), "training does not change its 'input'"),
    "a mode of text": (mode("dropout", "p", ["a", "b"]), "must be numbers or booleans"),
    "a mode of one value": (mode("dropout", "p", [0.5]), "malformed"),
    "a layer name that is a list": (edit_nodes(lambda n: n[-2].update(layer=["x"])), "is not text"),
    "a list for a document": (None, "malformed"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_is_no_graph_is_refused(case, good):
    edit, reason = DOCUMENTS[case]
    document, tensors = parts(good)
    if edit is None:
        document = [document]
    else:
        edit(document, tensors)
    refused(forged(document, tensors), reason)


@pytest.mark.parametrize("where", ["nodes", "structure", "lineage"])
@pytest.mark.parametrize("opening", ["[", '{"list":['])
def test_deep_nesting_is_refused(where, opening, good):
    document, tensors = parts(good)
    document[where] = "HERE"
    deep = opening * 100_000 + ("]" if opening == "[" else "]}") * 100_000
    refused(forged(json.dumps(document).replace('"HERE"', deep), tensors), "malformed|damaged")


def test_a_structure_nested_deeper_than_json_minds_is_refused_or_runs(good):
    document, tensors = parts(good)
    for _ in range(300):
        document["structure"] = {"list": [document["structure"]]}
    Model.load(forged(document, tensors))(torch.ones(1, 4))


@pytest.mark.parametrize("text", ["", "x", "[", "null", "NaN", '{"version": 1e999}', "1" * 5000], ids=lambda t: t[:8])
def test_a_graph_that_is_no_json_document_is_refused(text, good):
    refused(forged(text, parts(good)[1]), "malformed|without a packlight graph|file version inf")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad, good):
    document, tensors = parts(good)
    tensors["0.weight"] = tensors["0.weight"].clone()
    tensors["0.weight"][1, 2] = bad
    refused(forged(document, tensors), "1 of 24 values of '0.weight' are NaN or infinite")


def test_a_parameter_of_integers_is_refused(good):
    document, tensors = parts(good)
    tensors["0.weight"] = torch.ones(6, 4, dtype=torch.int64)
    refused(forged(document, tensors), "malformed")


def test_indices_that_leave_their_table_are_refused(tmp_path):
    shared = share_weights(load(torch.nn.Linear(16, 16), torch.zeros(2, 16)), Codebooks(bits=3))
    document, tensors = parts(shared.save(tmp_path / "shared.plm"))
    index = tensors["weight_index"]
    assert Model.load(forged(document, tensors)).named_tensors()["weight_index"].max() == 7
    tensors["weight_index"] = index.clone().fill_(8)
    refused(forged(document, tensors), "'weight_index' holds 8, its table has entries 0 to 7")
    tensors["weight_index"] = index.to(
        torch.int64
    ).neg()  # what is not stored so by packlight is looked at all the same
    refused(forged(document, tensors), "'weight_index' holds -7, its table has entries 0 to 7")
