"""Weights that are integers in blocks, read by linear layers whose activations are in float.

    MatMul(x, Transpose(DequantizeLinear(q, scales, block_size)))  →  MatMulNBits(x, packed q, scales)

ONNX Runtime's own 4-bit kernel (operator com.microsoft.MatMulNBits) widens weights as it multiplies. Weights of three
bits take four there. Its kernels for eight bits and for two were seen to take two to twelve times as long as float, so
weights of other widths are widened when the file is opened: from one byte each, or from two bits each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from packlight.targets.onnx_graph import initializer
from packlight.targets.onnx_storage import content

_DOMAIN = "com.microsoft"
_WIDTH = 4  # bits that the kernel is fast with
_BLOCKS = (16, 32, 64, 128, 256)  # elements that it takes


@dataclass(frozen=True)
class Blocks:
    """A weight in blocks: scale · (q − zero). integers: int8 [outputs, blocks, elements]. scales: float32, and zeros:
    int64, [outputs, blocks]. width: bits that hold them all, 2, 4 or 8."""

    integers: Any
    scales: Any
    zeros: Any
    features: int
    width: int

    def codes(self, values: Any) -> Any:
        """Integers as the unsigned ones that are stored."""
        return (values.astype(np.int16) + 2 ** (self.width - 1)).astype(np.uint8)


def multiply_blocks(model: ir.Model) -> None:
    """MatMul and Gemm with weights of three and four bits → MatMulNBits, in place."""
    packed: dict[str, list[ir.Value]] = {}
    for node in list(model.graph):
        source = _weight(node)
        blocks = _blocks(source)
        if source is None or blocks is None or blocks.width != _WIDTH:
            continue
        key = str(source.name)
        if key not in packed:
            packed[key] = _operands(model, str(source.inputs[0].name), _fitting(blocks))  # type: ignore[union-attr]
        _multiply(model, node, blocks, packed[key])


def widen_blocks(model: ir.Model) -> None:
    """DequantizeLinear of other blocks → operators that the runtime computes once, when it opens the file; in place."""
    RemoveUnusedNodesPass()(model)
    for node in list(model.graph):
        if (blocks := _blocks(node)) is not None:
            _widen(model, node, str(node.inputs[0].name), blocks)  # type: ignore[union-attr]


def _blocks(node: ir.Node | None) -> Blocks | None:
    """What a DequantizeLinear in blocks holds."""
    if node is None or node.op_type != "DequantizeLinear" or not node.attributes.get_int("block_size", 0):
        return None
    integers, scales, zeros = (None if v is None else content(v) for v in node.inputs[:3])
    if integers is None or scales is None or zeros is None:
        return None
    outputs, features = integers.shape
    size = node.attributes.get_int("block_size", 0)
    shifts = zeros.reshape(outputs, -1).astype(np.int64)
    low, high = min(integers.min(), shifts.min()), max(integers.max(), shifts.max())
    width = next(w for w in (2, 4, 8) if -(2 ** (w - 1)) <= low and high < 2 ** (w - 1))
    return Blocks(integers.reshape(outputs, -1, size), scales.reshape(outputs, -1), shifts, features, width)


def _weight(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear whose rows a MatMul or Gemm multiplies with."""
    value = node.inputs[1] if node.op_type in ("MatMul", "Gemm") and len(node.inputs) > 1 else None
    source = value.producer() if value is not None else None
    if source is None:
        return None
    if node.op_type == "Gemm":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
        found = {name: node.attributes[name].value for name in plain if name in node.attributes}
        return source if {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | found == plain else None
    return source.inputs[0].producer() if source.op_type == "Transpose" and source.inputs[0] is not None else None


def _fitting(blocks: Blocks) -> Blocks:
    """The same in blocks of a size that the kernel takes: longer ones are cut, with their scale repeated, and the last
    one of a row is filled up with zeros."""
    outputs, count, size = blocks.integers.shape
    if size in _BLOCKS:
        return blocks
    step = next((b for b in reversed(_BLOCKS) if size % b == 0), 0)
    if not step:  # a whole row
        step = next((b for b in _BLOCKS if b >= size), _BLOCKS[-1])
        filled = -(-size // step) * step
        edge = np.broadcast_to(blocks.zeros[..., None], (outputs, count, filled - size))
        blocks = Blocks(
            np.concatenate([blocks.integers, edge.astype(np.int8)], 2), blocks.scales, blocks.zeros, blocks.features,
            blocks.width,
        )  # fmt: skip
    integers = blocks.integers.reshape(outputs, -1, step)
    times = integers.shape[1] // count
    return Blocks(
        integers, blocks.scales.repeat(times, 1), blocks.zeros.repeat(times, 1), blocks.features, blocks.width
    )


def _operands(model: ir.Model, name: str, blocks: Blocks) -> list[ir.Value]:
    """The kernel's constants: two codes a byte, the first in its low half; zero points, where they are not all 0."""
    made = [initializer(model, name, packed(blocks.codes(blocks.integers), _WIDTH)),
            initializer(model, f"{name}_scales", blocks.scales)]  # fmt: skip
    if np.any(blocks.zeros):
        codes = blocks.codes(blocks.zeros)
        even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
        made.append(initializer(model, f"{name}_zeros", packed(even, _WIDTH)))
    return made


def packed(codes: Any, width: int) -> Any:
    """Codes uint8 [..., n] below 2^width, n a multiple of 8 / width → bytes [..., n · width / 8], low bits first."""
    each = 8 // width
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    shifted = parts << (width * np.arange(each, dtype=np.uint8))
    made: Any = np.bitwise_or.reduce(shifted, axis=-1).astype(np.uint8)
    return made


def _multiply(model: ir.Model, node: ir.Node, blocks: Blocks, operands: list[ir.Value]) -> None:
    size = 2 * int(operands[0].const_value.numpy().shape[-1])  # type: ignore[union-attr]
    attributes = {"K": blocks.features, "N": len(blocks.scales), "bits": _WIDTH, "block_size": size}
    inputs: list[ir.Value | None] = [node.inputs[0], *operands]
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs += [*[None] * (5 - len(inputs)), node.inputs[2]]
    made = ir.node("MatMulNBits", inputs, attributes, domain=_DOMAIN, name=node.name)
    result, old = made.outputs[0], node.outputs[0]
    model.graph.opset_imports[_DOMAIN] = 1
    model.graph.insert_before(node, made)
    result.name, result.shape, result.type = old.name, old.shape, old.type
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _widen(model: ir.Model, node: ir.Node, name: str, blocks: Blocks) -> None:
    """DequantizeLinear → float(codes) · scale − zero · scale, in its shape."""
    steps: list[ir.Node] = []

    def then(op: str, inputs: list[ir.Value], attributes: dict[str, Any] | None = None) -> ir.Value:
        steps.append(ir.node(op, inputs, attributes, name=f"{node.name}/{op}"))
        steps[-1].outputs[0].name = f"{node.name}/{op}:{len(steps)}"
        return steps[-1].outputs[0]

    def constant(what: str, content: Any) -> ir.Value:
        return initializer(model, f"{name}_{what}", content)

    zeros = blocks.zeros
    if blocks.width == 2 and blocks.integers.shape[-1] % 4 == 0:
        stored = constant("packed", packed(blocks.codes(blocks.integers), 2)[..., None])
        shifted = then("BitShift", [stored, constant("shifts", np.array([0, 2, 4, 6], np.uint8))],
                       {"direction": "RIGHT"})  # fmt: skip
        masked = then("BitwiseAnd", [shifted, constant("mask", np.array(3, np.uint8))])
        value = then("Reshape", [masked, constant("blocks", np.array(blocks.integers.shape, np.int64))])
        zeros = zeros + 2
    else:
        value = constant("integer", blocks.integers)
    value = then("Cast", [value], {"to": ir.DataType.FLOAT.value})
    if np.any(zeros):
        same = np.all(zeros == zeros.flat[0])
        stored = constant("zeros", zeros.flat[0].astype(np.int8) if same else zeros[..., None].astype(np.int8))
        value = then("Sub", [value, then("Cast", [stored], {"to": ir.DataType.FLOAT.value})])
    value = then("Mul", [value, constant("scales", blocks.scales[..., None])])
    shape = np.array([len(blocks.scales), blocks.features], np.int64)
    then("Reshape", [value, constant("shape", shape)])
    for step in steps:
        model.graph.insert_before(node, step)
    result, old = steps[-1].outputs[0], node.outputs[0]
    steps[-1].name = node.name
    result.name, result.shape, result.type = old.name, old.shape, old.type
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
