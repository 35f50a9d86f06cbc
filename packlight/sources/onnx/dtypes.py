"""ONNX's types of tensor elements as torch's.

torch has no tensors of 4 and 2 bits: those hold their values one a byte, and float4 ones in float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from packlight.errors import PacklightError

if TYPE_CHECKING:
    import onnx_ir as ir

_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 14: torch.complex64,
    15: torch.complex128, 16: torch.bfloat16, 17: torch.float8_e4m3fn, 18: torch.float8_e4m3fnuz,
    19: torch.float8_e5m2, 20: torch.float8_e5m2fnuz, 21: torch.uint8, 22: torch.int8, 23: torch.float32,
    24: torch.float8_e8m0fnu, 25: torch.uint8, 26: torch.int8,
}  # fmt: skip
NARROW = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}  # types narrower than a byte → lowest, highest
_REINTERPRETED = {
    torch.bfloat16: np.int16, torch.float8_e4m3fn: np.uint8, torch.float8_e4m3fnuz: np.uint8,
    torch.float8_e5m2: np.uint8, torch.float8_e5m2fnuz: np.uint8, torch.float8_e8m0fnu: np.uint8,
}  # fmt: skip


def torch_dtype(code: int) -> torch.dtype:
    """The dtype of an ONNX type number, or PacklightError."""
    found = _DTYPES.get(code)
    if found is None:
        names = {0: "undefined", 8: "string"}
        raise PacklightError(f"tensors of type {names.get(code, code)} have no place in a network of torch's")
    return found


def as_torch(array: Any, code: int) -> Tensor:
    """A numpy array of an ONNX type (onnx_ir gives ml_dtypes for those that numpy lacks) as a tensor of its own."""
    dtype = torch_dtype(code)
    array = np.asarray(array)
    if dtype in _REINTERPRETED:
        bits = torch.from_numpy(np.array(array.view(_REINTERPRETED[dtype])))
        return bits.view(dtype).reshape(array.shape)
    plain = np.dtype(str(dtype).removeprefix("torch."))
    return torch.from_numpy(np.array(array, dtype=plain, order="C")).reshape(array.shape)


def read_tensor(tensor: ir.TensorProtocol) -> Tensor:
    """A tensor of the file, in memory of its own. External data is read straight into it: mapped pages that are copied
    would count twice."""
    import onnx_ir

    code = int(tensor.dtype)
    if isinstance(tensor, onnx_ir.ExternalTensor) and code in _DTYPES and code not in NARROW and code != 23:
        dtype, shape = torch_dtype(code), tensor.shape.numpy()
        count = math.prod(shape) * dtype.itemsize
        content = np.fromfile(tensor.path, dtype=np.uint8, count=count, offset=tensor.offset or 0)
        return torch.from_numpy(content).view(dtype).reshape(shape)
    return as_torch(tensor.numpy(), code)
