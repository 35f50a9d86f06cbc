"""What is done to a .tflite file after its converter: inputs and outputs as the manifest says, tables of integers,
float16 constants, in float what its int8 kernels compute with scales of their own.

The converter gives int8 inputs and outputs where the network begins or ends with a quantize, and int32 for int64. Here
QUANTIZE, DEQUANTIZE and CAST are put there, so that every file of a network takes and gives the same arrays.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from packlight.errors import PacklightError
from packlight.targets.float16 import fits_float16

if TYPE_CHECKING:
    from packlight.model.spec import TensorSpec
    from packlight.targets.litert_convert import Stored

_IDENTIFIER = b"TFL3"
_SMALL = 64
_HYBRID_VERSION = {"FULLY_CONNECTED": 12, "CONV_2D": 5, "EMBEDDING_LOOKUP": 4}  # that first has scales a channel
# What int8 kernels write: (scale, zero point). Others are refused, or, by XNNPACK alone, computed all the same.
_SCALES = {
    "SOFTMAX": (1 / 256, -128),
    "LOG_SOFTMAX": (16 / 256, 127),
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
_COPIES = frozenset({
    "REVERSE_V2", "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND", "PAD", "PADV2", "MIRROR_PAD",
    "MAX_POOL_2D", "CONCATENATION", "SPLIT", "SPLIT_V", "PACK", "UNPACK", "RESIZE_NEAREST_NEIGHBOR", "TILE",
    "BROADCAST_TO", "SELECT", "SELECT_V2", "MAXIMUM", "MINIMUM", "SQUEEZE", "EXPAND_DIMS", "DEPTH_TO_SPACE",
    "SPACE_TO_DEPTH", "REDUCE_MAX", "REDUCE_MIN", "RESIZE_BILINEAR", "DYNAMIC_UPDATE_SLICE",
})  # fmt: skip


def finish(
    content: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    stored: Sequence[Stored],
    *,
    float16: bool,
) -> tuple[bytes, list[str]]:
    """The finished file's bytes, and notes. stored: constants that are integers."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    file = _File(schema, schema.ModelT.InitFromPackedBuf(bytearray(content)))
    file.refuse_unknown()
    file.compute_in_float()
    file.average_in_float()
    file.copy_in_one_scale()
    notes = file.store(stored)
    if float16:
        file.halve()
    file.take(inputs)
    file.give(outputs)
    file.drop_unused()
    builder = flatbuffers.Builder(len(content) + 1024)
    builder.Finish(file.model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output()), notes


class _File:
    """A file as the schema's objects, with one subgraph."""

    def __init__(self, schema: Any, model: Any):
        self.schema, self.model = schema, model
        self.graph = model.subgraphs[0]
        model.description = "packlight"

    def refuse_unknown(self) -> None:
        """Operators that only other runtimes have."""
        names = {v: k for k, v in vars(self.schema.BuiltinOperator).items() if isinstance(v, int)}
        found = {names[c.builtinCode] for c in self.model.operatorCodes}
        foreign = sorted(n for n in found if n == "CUSTOM" or n.startswith("STABLEHLO"))
        if foreign:
            raise PacklightError(f"LiteRT's converter left operators that its kernels lack: {', '.join(foreign)}")

    def compute_in_float(self) -> None:
        """Int8 operators whose kernels insist on a scale of the result that is not ours → DEQUANTIZE, the operator in
        float, QUANTIZE."""
        schema, made = self.schema, []
        for op in self.graph.operators:
            inner, result = op.inputs[0], op.outputs[0]
            wanted, given = _SCALES.get(self._kind_name(op)), self.graph.tensors[result].quantization
            small = self.graph.tensors[result].type == schema.TensorType.INT8
            if wanted is None or not small or (given.scale[0], given.zeroPoint[0]) == wanted:
                made.append(op)
                continue
            made += self._widened(op, inner, result)
        self.graph.operators = made

    def average_in_float(self) -> None:
        """AVERAGE_POOL_2D of integers → in float: the kernel writes its input's scale alone, and rounds the halves that
        averages of four are full of away from zero."""
        kinds, made = self.schema.BuiltinOperator, []
        for op in self.graph.operators:
            pools = self._kind(op) == kinds.AVERAGE_POOL_2D and _scaled(self.graph.tensors[op.inputs[0]])
            made += self._widened(op, op.inputs[0], op.outputs[0]) if pools else [op]
        self.graph.operators = made
        for op in list(made):
            after = [o for o in made if op.outputs[0] in o.inputs]
            once = [self._kind(o) for o in after] == [kinds.QUANTIZE] and op.outputs[0] not in self.graph.outputs
            if self._kind(op) == kinds.QUANTIZE and once and self._averages(made, op.inputs[0]):
                op.outputs = after[0].outputs
                made.remove(after[0])

    def _averages(self, operators: Sequence[Any], index: int) -> bool:
        kind = self.schema.BuiltinOperator.AVERAGE_POOL_2D
        return any(self._kind(op) == kind and op.outputs[0] == index for op in operators)

    def copy_in_one_scale(self) -> None:
        """QUANTIZE before every operator that copies integers into a tensor of another scale: the converter may give
        them one, and then values would change."""
        made = []
        for op in self.graph.operators:
            result = self.graph.tensors[op.outputs[0]]
            if self._kind_name(op) in _COPIES and result.type == self.schema.TensorType.INT8 and _scaled(result):
                for place, index in enumerate(list(op.inputs)):
                    tensor = self.graph.tensors[index] if index >= 0 else None
                    if tensor is None or tensor.type != result.type or not _scaled(tensor) or _alike(tensor, result):
                        continue
                    turned = self._tensor(_named(tensor.name, "_turned"), tensor.type, tensor.shape)
                    self.graph.tensors[turned].quantization = result.quantization
                    op.inputs = [turned if i == place else int(k) for i, k in enumerate(op.inputs)]
                    made.append(self._operator("QUANTIZE", int(index), turned))
            made.append(op)
        self.graph.operators = made

    def _widened(self, op: Any, inner: int, result: int) -> list[Any]:
        """DEQUANTIZE, the operator in float, QUANTIZE."""
        wide = [
            self._tensor(_named(t.name, "_float"), self.schema.TensorType.FLOAT32, t.shape)
            for t in (self.graph.tensors[inner], self.graph.tensors[op.outputs[0]])
        ]
        op.inputs, op.outputs = [wide[0]], [wide[1]]
        return [self._operator("DEQUANTIZE", inner, wide[0]), op, self._operator("QUANTIZE", wide[1], result)]

    def store(self, constants: Sequence[Stored]) -> list[str]:
        """Float weights that stand for integers → those, where a kernel reads both; a note on what then is computed.

        Lookups widen the rows they read. Linear layers and convolutions round their input, each row of a linear
        layer's and each image, to 8 bits, and multiply integers.
        """
        kinds = self.schema.BuiltinOperator
        names = {kinds.FULLY_CONNECTED: "linear layers", kinds.CONV_2D: "convolutions", kinds.EMBEDDING_LOOKUP: ""}
        known = {_key(values): (c, turn) for c in constants for values, turn in _layouts(c.floats)}
        counts: Counter[str] = Counter()
        for index, tensor in enumerate(self.graph.tensors):
            content = self._content(tensor) if tensor.type == self.schema.TensorType.FLOAT32 else None
            found = known.get(_key(content)) if content is not None and content.size >= 4 * _SMALL else None
            readers = [op for op in self.graph.operators if index in op.inputs]
            if found is None or not all(self._kind(op) in names and op.inputs[1] == index for op in readers):
                continue
            constant, turn = found
            integers = constant.integers
            tensor.type = self.schema.TensorType.INT8
            tensor.buffer = self._buffer(integers.transpose(turn) if turn else integers)
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = constant.scales
            tensor.quantization.zeroPoint = np.zeros(len(constant.scales), np.int64)
            tensor.quantization.quantizedDimension = 0
            for op in readers:
                counts[names[self._kind(op)]] += 1
                code = self.model.operatorCodes[op.opcodeIndex]
                code.version = max(code.version, _HYBRID_VERSION.get(self._kind_name(op), 1))
                if self._kind(op) == kinds.FULLY_CONNECTED:
                    op.builtinOptions.asymmetricQuantizeInputs = True
        told = [f"{count} {name}" for name, count in sorted(counts.items()) if name]
        return [f"{' and '.join(told)} round their input to 8 bits at run time"] if told else []

    def halve(self) -> None:
        """Float32 constants → float16 ones behind DEQUANTIZE, which is computed once, when the file is opened."""
        made, float32 = [], self.schema.TensorType.FLOAT32
        for index, tensor in enumerate(list(self.graph.tensors)):
            content = self._content(tensor)
            if tensor.type != float32 or content is None or content.size < 4 * _SMALL or index in self.graph.outputs:
                continue
            halved = fits_float16(content.view(np.float32))
            if halved is None:
                continue
            stored = self._tensor(_named(tensor.name, "_float16"), self.schema.TensorType.FLOAT16, tensor.shape)
            self.graph.tensors[stored].buffer = self._buffer(halved)
            tensor.buffer = 0
            made.append(self._operator("DEQUANTIZE", stored, index))
        self.graph.operators = [*made, *self.graph.operators]

    def take(self, specs: Sequence[TensorSpec]) -> None:
        """Inputs of the names and types of these specs."""
        before = []
        for place, spec in enumerate(specs):
            inner = self.graph.inputs[place]
            tensor = self.graph.tensors[inner]
            if tensor.type != self._type(spec.dtype):
                outer = self._tensor(spec.name, self._type(spec.dtype), tensor.shape)
                before.append(self._operator("QUANTIZE" if _scaled(tensor) else "CAST", outer, inner))
                tensor.name = f"{spec.name}/inner"
                self.graph.inputs[place] = outer
            else:
                tensor.name = spec.name
        self.graph.operators = [*before, *self.graph.operators]
        self._sign("inputs", self.graph.inputs, specs)

    def give(self, specs: Sequence[TensorSpec]) -> None:
        """Outputs of the names and types of these specs."""
        for place, spec in enumerate(specs):
            inner = self.graph.outputs[place]
            tensor = self.graph.tensors[inner]
            if tensor.type != self._type(spec.dtype):
                outer = self._tensor(spec.name, self._type(spec.dtype), tensor.shape)
                self.graph.operators.append(self._operator("DEQUANTIZE" if _scaled(tensor) else "CAST", inner, outer))
                self.graph.outputs[place] = outer
            elif inner not in self.graph.inputs:
                tensor.name = spec.name
        self._sign("outputs", self.graph.outputs, specs)

    def drop_unused(self) -> None:
        """Contents of buffers that no tensor has any more."""
        used = {t.buffer for t in self.graph.tensors} | {m.buffer for m in self.model.metadata or ()}
        for index, buffer in enumerate(self.model.buffers):
            if index not in used:
                buffer.data = None

    def _sign(self, part: str, tensors: Sequence[int], specs: Sequence[TensorSpec]) -> None:
        """Names in the signature."""
        maps = []
        for index, spec in zip(tensors, specs, strict=True):
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = spec.name, int(index)
            maps.append(entry)
        for signature in self.model.signatureDefs or ():
            setattr(signature, part, maps)

    def _kind(self, op: Any) -> int:
        return int(self.model.operatorCodes[op.opcodeIndex].builtinCode)

    def _kind_name(self, op: Any) -> str:
        return next(k for k, v in vars(self.schema.BuiltinOperator).items() if v == self._kind(op))

    def _type(self, dtype: str) -> int:
        found = getattr(self.schema.TensorType, dtype.upper(), None)
        if found is None:
            raise PacklightError(f"LiteRT has no type {dtype} for an input or output")
        return int(found)

    def _content(self, tensor: Any) -> Any | None:
        """Bytes of a constant, uint8 [bytes]; None of other tensors."""
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)

    def _readers(self, index: int) -> int:
        return sum(index in op.inputs for op in self.graph.operators)

    def _buffer(self, values: Any) -> int:
        made = self.schema.BufferT()
        made.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(made)
        return len(self.model.buffers) - 1

    def _tensor(self, name: str, dtype: int, shape: Any) -> int:
        made = self.schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name, dtype, shape, 0
        made.hasRank = True
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def _code(self, kind: int) -> int:
        """The index of an operator's code, added where it is not there."""
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == kind:
                return index
        made = self.schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = kind, min(kind, 127), 1
        self.model.operatorCodes.append(made)
        return len(self.model.operatorCodes) - 1

    def _operator(self, kind: str, source: int, result: int) -> Any:
        made = self.schema.OperatorT()
        made.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, kind))
        made.inputs, made.outputs = [source], [result]
        if kind == "CAST":
            made.builtinOptionsType, made.builtinOptions = (
                self.schema.BuiltinOptions.CastOptions,
                self.schema.CastOptionsT(),
            )
            made.builtinOptions.inDataType = self.graph.tensors[source].type
            made.builtinOptions.outDataType = self.graph.tensors[result].type
        return made


def _layouts(floats: Any) -> Iterator[tuple[Any, tuple[int, ...] | None]]:
    """A weight as the converter may write it, and the order of axes that makes it so."""
    yield floats, None
    if floats.ndim > 2:
        turn = (0, *range(2, floats.ndim), 1)
        yield floats.transpose(turn), turn


def _key(values: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def _alike(one: Any, other: Any) -> bool:
    a, b = one.quantization, other.quantization
    return bool(np.array_equal(a.scale, b.scale) and np.array_equal(a.zeroPoint, b.zeroPoint))


def _scaled(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None


def _named(name: Any, ending: str) -> str:
    return (name.decode() if isinstance(name, bytes) else str(name or "")) + ending
