"""Run in a child process with Keras on torch: a Keras file → a `.plm` file. argv: a folder with call.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

_OPEN = 64  # what a size that the file leaves open is set to
_TOLERANCE = 1e-3  # of the largest magnitude of an output


def main(folder: Path) -> None:
    import keras
    import torch

    from packlight.errors import PacklightError
    from packlight.sources.keras.translate import Translated
    from packlight.sources.torch_module import from_module

    call = json.loads((folder / "call.json").read_text())
    torch.set_num_threads(1)
    network = opened(keras, call["path"])
    if not getattr(network, "inputs", None):
        raise PacklightError("it is not a functional or sequential network that was built")
    given = folder / "example.npz"
    example = list(np.load(given).values()) if given.is_file() else [_example(i) for i in network.inputs]
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in example)
    module = Translated(network).eval()
    with torch.no_grad():
        wanted, found = network(list(tensors), training=False), module(*tensors)
    _compare(network, _flat(wanted), _flat(found))
    dynamic = call["dynamic"]
    if dynamic is not None:
        dynamic = {n: {int(a): d for a, d in axes.items()} for n, axes in dynamic.items()}
    model = from_module(module, tensors, dynamic=dynamic, name=call["name"])
    model.notes = (*model.notes, *_notes(network, given.is_file()))
    model.save(folder / "made.plm")


def opened(keras: Any, path: str) -> Any:
    """Keras' own refusals of code in the file stand: safe_mode is on."""
    from packlight.errors import PacklightError

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        text = " ".join(str(error).split())
        if "safe_mode" in text or "Lambda" in text or "lambda" in text:
            raise PacklightError("it holds Python code (a Lambda layer), which is not run") from error
        if "Could not locate class" in text or "custom" in text:
            raise PacklightError(f"it needs a class of its author's, which is not in the file: {text[:200]}") from error
        raise PacklightError(f"Keras cannot open it: {text[:200]}") from error


def _example(spec: Any) -> Any:
    sizes = [2, *(s or _OPEN for s in spec.shape[1:])]
    generator = np.random.default_rng(0)
    if str(spec.dtype).startswith("float"):
        return generator.random(sizes, dtype=np.float32).astype(spec.dtype)
    return generator.integers(0, 2, sizes).astype(spec.dtype)


def _notes(network: Any, given: bool) -> list[str]:
    left = sorted({i.name for i in network.inputs if None in i.shape[1:]})
    return [] if given or not left else [f"the file leaves sizes of {', '.join(left)} open: they are {_OPEN} here"]


def _compare(network: Any, wanted: list[Any], found: list[Any]) -> None:
    from packlight.errors import PacklightError

    for output, one, other in zip(network.outputs, wanted, found, strict=True):
        if one.shape != other.shape:
            raise PacklightError(f"output {output.name}: Keras gives {list(one.shape)}, the Model {list(other.shape)}")
        worst = float((one - other).abs().max()) / (float(one.abs().max()) + 1e-12)
        if not worst <= _TOLERANCE:
            raise PacklightError(f"output {output.name} differs from Keras' by {worst:.2g} of its largest magnitude")


def _flat(values: Any) -> list[Any]:
    if isinstance(values, dict):
        values = [values[k] for k in sorted(values)]
    return list(values) if isinstance(values, list | tuple) else [values]


if __name__ == "__main__":
    from packlight.sources.apart import limit_memory

    limit_memory()
    try:
        main(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  (whatever Keras or torch says is the parent's to tell)
        sys.exit(next(iter(str(error).strip().splitlines()), type(error).__name__))
