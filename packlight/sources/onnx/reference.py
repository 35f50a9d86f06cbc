"""Run in a child process: an ONNX file on ONNX Runtime, inputs and outputs in files of one folder.

call.json: path, names of the inputs, number of calls, and values to give instead of the outputs ([] for those).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    call = json.loads((folder / "call.json").read_text())
    session = _session(Path(call["path"]), call["values"])
    for i in range(call["calls"]):
        with np.load(folder / f"inputs_{i}.npz") as stored:
            given = dict(zip(call["names"], (stored[n] for n in stored.files), strict=True))
        outputs = session.run(call["values"] or None, given)
        np.savez(folder / f"outputs_{i}.npz", *map(np.asarray, outputs))


def _session(path: Path, values: list[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source: str | bytes = str(path)
    if values:
        source = _with_outputs(path, values)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _with_outputs(path: Path, values: list[str]) -> bytes:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values)
    return model.SerializeToString()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  (whatever native code says is the parent's to tell)
        sys.exit(next(iter(str(error).strip().splitlines()), type(error).__name__))
