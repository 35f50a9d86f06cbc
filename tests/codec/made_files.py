"""Tensors of every form that a `.plt` file knows, and what both decoders say about a file in one line."""

import zlib
from pathlib import Path

import numpy as np
import torch

from packlight.codec.container import read, write
from packlight.codec.forms import TYPES, Kind
from packlight.codec.streams import Coder, Entry
from packlight.cosines import LARGEST, Waves
from packlight.errors import PacklightError

SOURCE = Path(__file__).parents[2] / "decoders" / "plt.c"
FLOATS = [dtype for dtype, kind in TYPES.items() if kind.is_float]
INTEGERS = [dtype for dtype, kind in TYPES.items() if not kind.is_float]


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """The integers [elements] that a tensor's elements spell."""
    kind = TYPES[name_of(tensor)].bits
    flat = tensor.detach().contiguous().flatten()
    return flat.view(torch.uint8).numpy().view(kind) if len(flat) else np.zeros(0, kind)


def name_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def sizes_of(entry: Entry) -> str:
    return ",".join(map(str, entry.shape))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], coder: Coder, document: str = "{}") -> None:
    entries = [(Entry(n, name_of(t), tuple(t.shape)), lambda t=t: bits_of(t)) for n, t in tensors.items()]
    write(path, document, entries, coder)


def verdict(path: Path) -> str:
    """What `plt --check` should say of a file. Raises PacklightError where it should be refused."""
    header, parts = read(path, threads=1)
    entries = [entry for stream in header.streams for entry in stream.entries]
    text = "".join(f"{e.name} {e.dtype} {sizes_of(e)}\n" for e in entries)
    crc = zlib.crc32(f"{text}\n{header.document}".encode())
    for part in parts:
        crc = zlib.crc32(part.bits.tobytes(), crc)
    return f"ok {len(entries)} {crc:08x}"


def said_of(path: Path) -> str:
    """`verdict`, or "bad" and what is wrong."""
    try:
        return verdict(path)
    except PacklightError as error:
        return f"bad {error}"


def tensors_of(kind: Kind, dtype: str) -> dict[str, torch.Tensor]:
    """Tensors that take a form, where an element type has it; among them the corners of that form."""
    draw = torch.Generator().manual_seed(7)
    element = getattr(torch, dtype)
    of_floats = kind not in (Kind.RAMP, Kind.LEVELS)
    if of_floats != (dtype in FLOATS) and kind != Kind.RAW:
        return {}
    match kind:
        case Kind.RAMP if dtype == "bool":
            return {"constant": torch.ones(9, dtype=element)}
        case Kind.RAMP:
            signed = TYPES[dtype].bits[-2] == "i"
            made = {"up": torch.arange(3, 120), "down": 100 - torch.arange(90)[None], "constant": torch.full((2, 5), 4)}
            return {n: t.to(element) for n, t in (made | ({"minus": -torch.arange(128)} if signed else {})).items()}
        case Kind.LEVELS if dtype == "bool":
            return {"mask": torch.rand(13, 31, generator=draw) > 0.3}
        case Kind.LEVELS:
            return _levels(dtype, draw)
        case Kind.STEPS:
            return _steps(draw) if dtype == "float32" else {}
        case Kind.TABLE:
            entries = torch.tensor([-3.3, -0.7, -0.0, 0.0, 0.11, 0.9, 1.7, 2.1]).to(element)
            picked = torch.randint(0, 8, (40, 3, 3, 3), generator=draw)
            return {"few": entries.view(torch.uint8).reshape(8, -1)[picked].view(element).reshape(picked.shape)}
        case Kind.SPARSE:
            made = _spread((10, 12) if "float8" in dtype else (18, 25), draw)
            keep = torch.rand(2, *made.shape, generator=draw)
            return {"half": (made * (keep[0] > 0.5)).to(element), "rare": (made * (keep[1] > 0.98)).to(element)}
        case Kind.WORDS:
            made = _spread((10, 12) if "float8" in dtype else (40, 50), draw)
            return {"noise": made.to(element), "structure": made.bfloat16().to(element)}
        case Kind.WAVES:
            return _waves(draw) if dtype == "float32" else {}
        case Kind.RAW:
            made = {"empty": torch.zeros(0, 3, dtype=element)}
            return made | ({"wide": torch.tensor([2**63 - 1, -(2**63), 0])} if dtype == "int64" else {})
    raise AssertionError(kind)


def _spread(shape: tuple[int, ...], draw: torch.Generator) -> torch.Tensor:
    """Floats of many values also in eight bits, none of them 0."""
    sign = torch.randint(0, 2, shape, generator=draw) * 2.0 - 1
    return sign.double() * torch.exp(torch.randn(shape, generator=draw, dtype=torch.float64))


def _levels(dtype: str, draw: torch.Generator) -> dict[str, torch.Tensor]:
    info = torch.iinfo(getattr(torch, dtype))
    signs = torch.randint(0, 2, (12, 4, 3, 3), generator=draw) * 2 - 1
    laplace = (torch.rand(signs.shape, generator=draw).log() * -3).long() * (signs if info.min else 1) + 1
    sparse = torch.zeros(7, 900, dtype=torch.int64)
    sparse[torch.rand(sparse.shape, generator=draw) > 0.997] = 5
    wide = torch.randint(max(info.min, -(2**31)), min(info.max, 2**31), (70, 60), generator=draw)
    few = torch.tensor([info.max if info.bits < 64 else 2**40, 0, max(info.min, -7)])
    return {n: t.to(getattr(torch, dtype)) for n, t in
            {"convolution": laplace, "sparse": sparse, "wide": wide, "few": few}.items()}  # fmt: skip


def _steps(draw: torch.Generator) -> dict[str, torch.Tensor]:
    pruned = torch.randn(30, 70, generator=draw)
    pruned = torch.where(pruned.abs() > 1.5, pruned * 5, 0).round()
    return {
        "pruned": pruned * 0.0123, "kernels": (torch.randn(8, 5, 9, 9, generator=draw) * 20).round() * 3e-5,
        "one": torch.tensor(3.25), "long gaps": torch.eye(40).flatten().repeat(2) * 0.5,
    }  # fmt: skip


def _waves(draw: torch.Generator) -> dict[str, torch.Tensor]:
    made = {}
    for name, sizes, waves in [
        ("picture", (9, 100), Waves(10, 10)), ("channels", (6, 3 * 12), Waves(3, 4)), ("line", (5, 64), Waves(1, 64)),
        ("kernels", (8, 3, 5, 5), Waves(5, 5)), ("sequence", (8, 4, 9), Waves(1, 9)), ("tall", (3, 126), Waves(63, 2)),
    ]:  # fmt: skip
        levels = torch.randn(sizes, generator=draw)
        levels = torch.where(levels.abs() > 0.7, levels * 10, 0).round()
        levels.flatten()[:2] = torch.tensor([1.0, LARGEST if name == "picture" else -2.0])
        made[name] = torch.from_numpy(waves.weights(levels.numpy(), np.float32(0.0123)))
    return made
