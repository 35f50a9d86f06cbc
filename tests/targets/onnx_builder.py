"""Small ONNX graphs by hand, and what ONNX Runtime makes of them."""

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort


class Builder:
    """A graph under construction: one input "x", nodes in order, the last one's result is the output "y"."""

    def __init__(self, shape, dtype=ir.DataType.FLOAT):
        self.x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.constants, self.nodes = [], []

    def constant(self, name, content):
        tensor = ir.tensor(np.asarray(content), name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self.constants.append(value)
        return value

    def node(self, op, inputs, shape=None, attributes=None, name=None):
        node = ir.node(op, inputs, attributes, name=name or f"{op}_{len(self.nodes)}")
        node.outputs[0].name = f"v{len(self.nodes)}"
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8 if op == "QuantizeLinear" else ir.DataType.FLOAT)
        node.outputs[0].shape = None if shape is None else ir.Shape(shape)
        self.nodes.append(node)
        return node.outputs[0]

    def quantized(self, value, scale, zero_point=0):
        """Quantized to uint8 and back, as the reference form has it."""
        settings = [self.constant(f"s{len(self.nodes)}", np.float32(scale)),
                    self.constant(f"z{len(self.nodes)}", np.uint8(zero_point))]  # fmt: skip
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [value, *settings]), *settings])

    def weight(self, integers, scale, axis):
        constants = {"w": np.array(integers, np.int8), "w_scale": np.array(scale, np.float32)}
        inputs = [self.constant(*c) for c in (*constants.items(), ("w_zero", np.zeros(len(scale), np.int8)))]
        return self.node("DequantizeLinear", inputs, attributes={"axis": axis})

    def model(self):
        y = self.nodes[-1].outputs[0]
        y.name = "y"
        graph = ir.Graph([self.x], [y], nodes=self.nodes, initializers=self.constants, opset_imports={"": 18})
        return ir.Model(graph, ir_version=10)


def run(model, x):
    """The output, computed as the graph says: with its optimisations the runtime would fuse and approximate."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.serde.serialize_model(model).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def kernels(model):
    """The kernels that the runtime chooses with its optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        content = ir.serde.serialize_model(model).SerializeToString()
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return {node.op_type for node in ir.load(options.optimized_model_filepath).graph}


def operators(model):
    return [node.op_type for node in model.graph]
