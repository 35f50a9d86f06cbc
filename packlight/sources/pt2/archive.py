"""What a `.pt2` archive holds: the JSON of the program and its tensors, each checked before memory is taken for it.

Two layouts are read: that of torch 2.8 and newer (`models/*.json`, `data/weights/…`), and the older one
(`serialized_exported_program.json`, `serialized_state_dict.pt`, `serialized_constants.pt`).
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError

# torch._export.serde.schema.ScalarType, Layout and MemoryFormat: the numbers are part of the file format.
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool,
    13: torch.bfloat16, 28: torch.uint16, 29: torch.float8_e4m3fn, 30: torch.float8_e5m2,
}  # fmt: skip
STRIDED = 7
_MAX_JSON_BYTES = 1 << 27
_OLD_PROGRAM = "serialized_exported_program.json"


class Archive:
    """An open `.pt2` file. Use as a context manager. Raises PacklightError for what is no sound archive.

    program: the JSON of the exported program.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise PacklightError(f"{path} is no .pt2 archive: {error}") from error
        try:
            self._members = self._checked()
            self.program = self._program()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def tensors(self) -> dict[str, Tensor]:
        """Parameters (as nn.Parameter), buffers and constants by name; those that share memory in the file do here."""
        if _OLD_PROGRAM in self._members:
            return self._pickled("serialized_state_dict.pt") | self._pickled("serialized_constants.pt")
        found: dict[str, Tensor] = {}
        for kind in ("weights", "constants"):
            found |= self._payload(f"data/{kind}/", f"{self._name}_{kind}_config.json")
            found |= self._pickled(f"data/{kind}/{self._name}.pt")
        return found

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        """Members by their name below the archive's one folder, uncompressed and together no larger than the file."""
        members = [m for m in self._zip.infolist() if not m.is_dir()]
        if sum(m.file_size for m in members) > self.path.stat().st_size:
            raise PacklightError(f"{self.path} declares more than the bytes that it holds")
        if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
            raise PacklightError(f"{self.path} is compressed or encrypted, which torch.export.save never does")
        tops = {m.filename.partition("/")[0] for m in members}
        below = len(tops) == 1 and all("/" in m.filename for m in members)
        return {m.filename.partition("/")[2] if below else m.filename: m for m in members}

    def _program(self) -> Mapping[str, Any]:
        if _OLD_PROGRAM in self._members:
            return self._json(_OLD_PROGRAM)
        if (order := self._members.get("byteorder")) is not None and self._read(order) != b"little":
            raise PacklightError(f"{self.path} holds numbers in big-endian order; write it anew on a usual machine")
        names = [n for n in self._members if n.startswith("models/") and n.endswith(".json")]
        if len(names) != 1:
            what = f"{len(names)} exported programs, give a file with one" if names else "no exported program"
            raise PacklightError(f"{self.path} holds {what} (torch.export.save writes such files)")
        self._name = names[0].removeprefix("models/").removesuffix(".json")
        return self._json(names[0])

    def _json(self, name: str) -> Any:
        if self._members[name].file_size > _MAX_JSON_BYTES:
            raise PacklightError(f"{self.path}: {name} has more than {_MAX_JSON_BYTES:,} bytes")
        try:
            return json.loads(self._read(self._members[name]))
        except (ValueError, RecursionError) as error:
            raise PacklightError(f"{self.path}: {name} is no JSON ({str(error)[:100]})") from error

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise PacklightError(f"{self.path} is damaged: {error}") from error

    def _payload(self, folder: str, config: str) -> dict[str, Tensor]:
        """Tensors that are written as raw bytes, as the config says; pickled ones only of plain tensors."""
        if folder + config not in self._members:
            return {}
        memory: dict[str, bytearray] = {}
        made: dict[str, Tensor] = {}
        found = {}
        for name, entry in self._json(folder + config)["config"].items():
            place = folder + str(entry["path_name"])
            if place not in self._members:
                raise PacklightError(f"{self.path} lacks {place}, which holds {name[:80]!r}")
            if entry["use_pickle"]:
                value = _weights_only(self._read(self._members[place]), f"{self.path}: {name[:80]!r}")
            else:
                key = json.dumps([place, entry["tensor_meta"], entry["is_param"]])
                if place not in memory:
                    memory[place] = bytearray(self._read(self._members[place]))
                if key not in made:
                    made[key] = _tensor(memory[place], entry["tensor_meta"], name)
                    if entry["is_param"]:
                        grown = made[key].is_floating_point() and entry["tensor_meta"]["requires_grad"] is True
                        made[key] = nn.Parameter(made[key], requires_grad=grown)
                value = made[key]
            if not isinstance(value, Tensor):
                raise PacklightError(f"{self.path}: {name[:80]!r} is a {type(value).__name__}, no tensor")
            found[name] = value
        return found

    def _pickled(self, name: str) -> dict[str, Tensor]:
        if name not in self._members:
            return {}
        held = self._read(self._members[name])
        found = _weights_only(held, f"{self.path}: {name}") if held else {}
        if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
            raise PacklightError(f"{self.path}: {name} holds other things than tensors; open it with trust=True")
        return found


def _weights_only(held: bytes, what: str) -> Any:
    try:
        return torch.load(io.BytesIO(held), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise PacklightError(f"{what} cannot be opened without running its code; open it with trust=True") from error


def _tensor(memory: bytearray, meta: Mapping[str, Any], name: str) -> Tensor:
    """The tensor that lies in these bytes; PacklightError where it would reach beyond them."""
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != STRIDED:
        raise PacklightError(f"tensor {name[:80]!r} has a dtype or layout that packlight does not read")
    sizes, strides = ([_whole(n, name) for n in meta[k]] for k in ("sizes", "strides"))
    start, count = _whole(meta["storage_offset"], name), math.prod(sizes)
    held = len(memory) // dtype.itemsize
    last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if count and (last >= held or count > held):
        raise PacklightError(f"tensor {name[:80]!r} of shape {sizes} needs more than the {len(memory):,} bytes it has")
    if not count:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(memory, dtype=dtype, count=held)
    return flat.as_strided(sizes, strides, start).contiguous()


def _whole(size: Any, name: str) -> int:
    value = size.get("as_int") if isinstance(size, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise PacklightError(f"tensor {name[:80]!r} has the size {str(size)[:60]}")
    return value
