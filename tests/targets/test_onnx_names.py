"""Everything in an ONNX graph is called what the user calls it, and no two operators alike."""

import types

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")

from onnx_builder import Builder

from packlight.errors import PacklightError
from packlight.model import TensorSpec
from packlight.targets.onnx_convert import name_dimensions, name_operators, unique_names


def graph_and_specs(exported, result, wanted, outcome):
    """A graph with one input and one output of these shapes, and a Model's specs that name them."""
    b = Builder(exported)
    b.node("Relu", [b.x], shape=result)
    specs = types.SimpleNamespace(
        inputs=[TensorSpec("x", "float32", wanted)], outputs=[TensorSpec("y", "float32", outcome)]
    )
    return b.model(), specs


def test_dimensions_get_the_users_names_and_expressions():
    graph, specs = graph_and_specs(("s7", 3), ("2*s7", 3), ("batch", 3), ("2*batch", 3))
    name_dimensions(graph, specs)
    assert [list(map(str, v.shape)) for v in (graph.graph.inputs[0], graph.graph.outputs[0])] == [
        ["batch", "3"], ["2*batch", "3"],
    ]  # fmt: skip


def test_an_output_that_is_dynamic_after_all_is_not_written_down_as_fixed():
    graph, specs = graph_and_specs(("s7", 3), ("s7", 3), ("batch", 3), (2, 3))
    name_dimensions(graph, specs)
    assert str(graph.graph.outputs[0].shape[0]) == "batch"


def test_a_dimension_that_the_conversion_fixed_is_an_error_before_the_file_surprises():
    graph, specs = graph_and_specs((2, 3), (2, 3), ("batch", 3), ("batch", 3))
    with pytest.raises(PacklightError, match="dimension 'batch' of input 'x' became fixed at 2 in the conversion"):
        name_dimensions(graph, specs)


def test_a_layer_that_became_several_operators_names_the_last_one_and_marks_the_others():
    b = Builder((1, 2))
    product = b.node("MatMul", [b.x, b.constant("network.fc.weight", np.ones((2, 2), np.float32))])
    b.nodes[0].metadata_props["pkg.torch.onnx.fx_node"] = "%linear : [num_users=1] = call_function[...]"
    b.node("Add", [product, b.constant("network.fc.bias", np.ones(2, np.float32))])
    b.node("Relu", [b.nodes[1].outputs[0]])
    model = b.model()
    name_operators(model, {"v1": "fc", "linear": "fc", "y": "act"})
    assert [n.name for n in model.graph] == ["fc/MatMul", "fc", "act"]
    assert [n.outputs[0].name for n in model.graph] == ["v0", "fc", "y"]
    assert set(model.graph.initializers) == {"fc.weight", "fc.bias"}


def test_equal_operator_names_are_told_apart():
    b = Builder((1,))
    value = b.x
    for name in ("a", "a_1", "a", "b", "a", ""):
        value = b.node("Relu", [value], name=name)
        b.nodes[-1].name = name
    model = b.model()
    unique_names(model)
    names = [n.name for n in model.graph]
    assert names == ["a", "a_1", "a_2", "b", "a_3", "Relu_1"]


def test_a_value_that_is_called_as_another_layer_is_gets_a_number():
    b = Builder((1, 2))
    first = b.node("Tanh", [b.x])
    b.node("Relu", [b.node("Sigmoid", [first])])
    for node, name in zip(b.nodes, ("own", "tanh_1", "y"), strict=True):
        node.outputs[0].name = name
    model = b.model()
    name_operators(model, {"own": "tanh_1"})  # what the user calls tanh_1, the exporter calls "own"
    assert [n.outputs[0].name for n in model.graph] == ["tanh_1", "tanh_1:1", "y"]
    assert [v.name for n in model.graph for v in n.inputs] == ["x", "tanh_1", "tanh_1:1"]
