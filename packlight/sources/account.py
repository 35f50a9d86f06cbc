"""Why a network cannot be exported: the line of the user's code, and what is usually done about it."""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.export import ExportedProgram

from packlight.errors import PacklightError
from packlight.model.operators import packet

_TORCHS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), str(Path(inspect.__file__).parent))
_INSTALLED = ("site-packages", "dist-packages")
_LINE = re.compile(r'File "([^"]+)", line (\d+), in ')
_NUMBER = re.compile(r"\.item\(|\.tolist\(|\b(?:int|float|bool|range)\(")
_BRANCH = re.compile(r"^(?:el)?if\b|^while\b|^assert\b|\bif\b.*\belse\b")
_SIZES = "a size depends on the values of a tensor"
_KEEP_SIZE = "keep the size and mask instead: torch.where(mask, x, 0), not x[mask], nonzero or unique"
_NUMBER_OF = (
    "it makes a Python number of a tensor",
    "keep it a tensor (no .item(), int(), float() or range() of one), or make it an argument with a default",
)
_NO_TENSORS = (
    "numpy and other code that is not torch's cannot be captured; use torch's own functions, or compute it before the "
    "network and give it as an input"
)

# What the error says, torch's words in it → what is meant, and the remedy.
_CAUSES = (
    (r"cannot be converted to a Tensor|expected Tensor as element|\.numpy\(\)|is not supported for tensor subclasses",
     "", _NO_TENSORS),
    (r"not linked with (support for )?cuda|CUDA|mps|Expected all tensors to be on the same device",
     "", "leave devices to whoever calls the network: x.to(y.device), torch.zeros(…, device=x.device)"),
)  # fmt: skip


def account(module: nn.Module, error: Exception) -> PacklightError:
    """One line: what torch said or what is meant, file:line of the user's code, the line itself, and the remedy."""
    frame = _place(error)
    code = linecache.getline(frame.f_code.co_filename, frame.lineno).strip() if frame else ""
    said, remedy = _cause(error, code)
    if frame and frame.custom:
        own = f"of {frame.custom}, an autograd function of your own, only torch operators can be captured"
        remedy = f"{own}; {remedy or _NO_TENSORS}"
    what = f"{said}{_at(frame, code)}{remedy and '; '}{remedy}"
    return PacklightError(f"{type(module).__name__} cannot be exported: {what}")


def account_of_sizes(module: nn.Module, program: ExportedProgram, error: PacklightError) -> PacklightError:
    """The same for a size or number that depends on values, which torch.export accepts and says where it arose; other
    errors as they are."""
    if _SIZES not in str(error):
        return error
    for node in program.graph.nodes:
        found = _last(node.stack_trace or "")
        if found is None or not _unbacked(node.meta.get("val")):
            continue
        said, remedy = _NUMBER_OF if packet(node) == "item" else (_SIZES, _KEEP_SIZE)
        code = linecache.getline(*found).strip()[:120]
        where = f"(at {found[0]}:{found[1]}: {code})"
        return PacklightError(f"{type(module).__name__} cannot be a Model: {said} {where}; {remedy}")
    return error


def _unbacked(value: object) -> bool:
    """Whether a value or its size is not known before the network runs."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return isinstance(value, torch.Tensor | torch.SymInt | torch.SymFloat) and bool(free_unbacked_symbols(value))


class _Frame:
    """A place in the user's code. custom: the name of the autograd function that holds it, or ""."""

    def __init__(self, frame: FrameType, lineno: int):
        self.f_code, self.lineno = frame.f_code, lineno
        first = next(iter(frame.f_locals.values()), None)
        backward = type(first).__name__ if isinstance(first, torch.autograd.function.FunctionCtx) else ""
        self.custom = backward.removesuffix("Backward")


def _place(error: Exception) -> _Frame | None:
    """The innermost line that is the user's; where there is none, that of a package that is not torch."""
    frames = [f for f in _frames(error) if not f.f_code.co_filename.startswith(("<", *_TORCHS))]
    own = [f for f in frames if not any(i in f.f_code.co_filename for i in _INSTALLED)]
    return (own or frames or [None])[-1]  # type: ignore[list-item]


def _frames(error: Exception) -> Iterator[_Frame]:
    trace = error.__traceback__
    while trace is not None:
        yield _Frame(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next


def _at(frame: _Frame | None, code: str) -> str:
    return f" (at {frame.f_code.co_filename}:{frame.lineno}{code and ': '}{code[:120]})" if frame else ""


def _cause(error: Exception, code: str) -> tuple[str, str]:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
    if "data-dependent" in first:
        if _NUMBER.search(code):
            return _NUMBER_OF
        if _BRANCH.search(code):
            return "it branches on the values of a tensor", "compute both and choose: torch.where(condition, a, b)"
        return "its course depends on the values of a tensor", "compute with tensors: torch.where(condition, a, b)"
    for pattern, meant, remedy in _CAUSES:
        if re.search(pattern, first):
            return meant or first, remedy
    return first, ""


def _last(trace: str) -> tuple[str, int] | None:
    """The innermost line of a stack as torch.export writes it that is not torch's."""
    places = [(file, int(line)) for file, line in _LINE.findall(trace)]
    return next((p for p in reversed(places) if not p[0].startswith(("<", "torch/", *_TORCHS))), None)
