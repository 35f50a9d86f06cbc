"""Tables on disk, so that each is computed once.

A file's name is the digest of all that its content depends on. An entry that cannot be read, or is not of its key, is
as if it were not there; a folder that cannot be written to only costs the time of computing again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from packlight.errors import PacklightError
from packlight.files import write_text
from packlight.model import Model, fingerprint
from packlight.model.lineage import digest

_VERSION = 1  # of what is computed; a change of any measure's numbers raises it


def key_of(model: Model, batches: Sequence[Sequence[torch.Tensor | None]], options: dict[str, Any]) -> str:
    """A digest of the network (its tensors and what it does with them), the data, and everything else that counts."""
    data = {f"{i}.{j}": t for i, batch in enumerate(batches) for j, t in enumerate(batch) if t is not None}
    network = [model.fingerprint(), model.graph_module.code]
    return digest([_VERSION, torch.__version__, network, fingerprint(data), options])


def remembered(
    folder: Path | None, key: str, make: Callable[[], Any], read: Callable[[Any], Any], write: Callable[[Any], Any]
) -> Any:
    """What `make` makes, or what it made before. read, write: from and to JSON values; `read` raises KeyError,
    TypeError, ValueError or AttributeError on what `write` did not write. folder: None computes always."""
    path = None if folder is None else folder / "sensitivity" / f"{key[:32]}.json"
    if path is not None:
        with contextlib.suppress(OSError, KeyError, TypeError, ValueError, AttributeError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["key"] == key and stored["digest"] == digest(stored["table"]):
                return read(stored["table"])
    made = make()
    if path is not None:
        table = write(made)
        with contextlib.suppress(OSError, PacklightError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"key": key, "digest": digest(table), "table": table}, indent=1))
    return made
