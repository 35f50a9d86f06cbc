"""Run in a child process: a TorchScript archive → a `.plm` file. argv: a folder with call.json and example.pt."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def main(folder: Path) -> None:
    import torch

    from packlight.sources.torch_module import from_module
    from packlight.sources.torchscript.script import Script

    torch.set_num_threads(1)
    call = json.loads((folder / "call.json").read_text())
    example = torch.load(folder / "example.pt", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(call["path"], map_location="cpu").eval()  # type: ignore[no-untyped-call]
    dynamic = call["dynamic"]
    if dynamic is not None:
        dynamic = {n: {int(a): d for a, d in axes.items()} for n, axes in dynamic.items()}
    from_module(Script(script), example, dynamic=dynamic, name=call["name"]).save(folder / "made.plm")


if __name__ == "__main__":
    from packlight.sources.apart import limit_memory

    limit_memory()
    try:
        main(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  (whatever torch says is the parent's to tell)
        sys.exit(next(iter(str(error).strip().splitlines()), type(error).__name__))
