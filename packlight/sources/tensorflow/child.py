"""Run with TensorFlow's interpreter: a SavedModel or `.tflite` file → made.onnx, and proof.npz with what TensorFlow
answers to random inputs. argv: a folder with call.json.

Nothing here imports torch: the environment sees packlight's packages, but needs only TensorFlow, tf2onnx and onnx.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

_SERVED, _DEFAULT, _OPSET = "serve", "serving_default", 18
# Operators that run Python, or read and write files and other devices: none belongs to a network.
_REACHING_OUT = re.compile(
    r"(Eager)?PyFunc.*|.*(Read|Write|Matching)File.*|.*File(System|Exists).*|ImmutableConst|.*Dataset.*|.*Reader.*|"
    r".*(Send|Recv).*|.*Rpc.*|Print(V2)?|.*Summary.*|.*Iterator.*|Infeed.*|Outfeed.*|Raw.*|LoadAndRemap.*|Custom.*"
)
_SAVING = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})  # which every folder has
_BATCH, _OPEN = 2, 64  # what a first size, and another, that the file leaves open is set to


class Refused(Exception):
    """What is wrong with the file, in one line."""


def main(folder: Path) -> None:
    call = json.loads((folder / "call.json").read_text())
    path = Path(call["path"])
    given = folder / "example.npz"
    example = list(np.load(given).values()) if given.is_file() else None
    answered = _saved_model if call["saved"] else _lite
    made = folder / "made.onnx"
    inputs, outputs, words = answered(path, example)
    _convert([*words, "--output", str(made), "--opset", str(_OPSET)])
    _named_anew(made, list(inputs), list(outputs))
    proof = {f"in {_plain(k)}": v for k, v in inputs.items()} | {f"out {_plain(k)}": v for k, v in outputs.items()}
    np.savez(folder / "proof.npz", **proof)


def _saved_model(path: Path, example: list[Any] | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Inputs and outputs of its signature by name, and the converter's words."""
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    stored.ParseFromString((path / "saved_model.pb").read_bytes())
    graphs = [g for g in stored.meta_graphs if _SERVED in g.meta_info_def.tags] or list(stored.meta_graphs)
    if not graphs:
        raise Refused("it holds no graph")
    _check_operators(n.op for g in graphs for nodes in _functions(g.graph_def) for n in nodes)
    signature = _signature([k for k in graphs[0].signature_def if not k.startswith("__")])

    import tensorflow as tf

    network = tf.saved_model.load(str(path), tags=list(graphs[0].meta_info_def.tags))
    run = network.signatures[signature]
    specs = dict(sorted(run.structured_input_signature[1].items()))
    inputs = _inputs({k: (list(s.shape), s.dtype.as_numpy_dtype) for k, s in specs.items()}, example)
    outputs = {k: v.numpy() for k, v in run(**{k: tf.constant(v) for k, v in inputs.items()}).items()}
    words = ["--saved-model", str(path), "--signature_def", signature, "--tag", ",".join(graphs[0].meta_info_def.tags)]
    return inputs, outputs, words


def _functions(graph: Any) -> Any:
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def _check_operators(kinds: Any) -> None:
    counts = Counter(k for k in kinds if k not in _SAVING and _REACHING_OUT.fullmatch(k))
    if counts:
        told = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
        raise Refused(f"it runs code or reaches out of its graph: {told}")


def _signature(names: list[str]) -> str:
    if _DEFAULT in names or len(names) == 1:
        return _DEFAULT if _DEFAULT in names else names[0]
    told = f"it has the signatures {', '.join(sorted(names))}" if names else "it has no signature"
    raise Refused(f"{told}; export it with one named {_DEFAULT}")


def _lite(path: Path, example: list[Any] | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path))
    wanted = interpreter.get_input_details()
    inputs = _inputs({d["name"]: (list(d["shape_signature"]), d["dtype"]) for d in wanted}, example)
    for detail in wanted:
        interpreter.resize_tensor_input(detail["index"], inputs[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in wanted:
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    outputs = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    return inputs, outputs, ["--tflite", str(path)]


def _inputs(specs: dict[str, tuple[list[Any], Any]], example: list[Any] | None) -> dict[str, Any]:
    if example is not None:
        if len(example) != len(specs):
            raise Refused(f"it takes {len(specs)} inputs ({', '.join(specs)}), {len(example)} examples are given")
        return {k: np.asarray(x, dtype) for (k, (_, dtype)), x in zip(specs.items(), example, strict=True)}
    made, generator = {}, np.random.default_rng(0)
    for name, (shape, dtype) in specs.items():
        kind = np.dtype(dtype)
        sizes = [int(s) if s is not None and s > 0 else _OPEN if i else _BATCH for i, s in enumerate(shape)]
        if kind.kind == "f":
            made[name] = generator.random(sizes).astype(kind)
        elif kind.kind in "iub":
            ends = np.iinfo(kind) if kind.itemsize == 1 and kind.kind != "b" else None
            low, high = (ends.min, ends.max + 1) if ends is not None else (0, 2)
            made[name] = generator.integers(low, high, sizes).astype(kind)
        else:
            raise Refused(f"input {name!r} is of {kind.name if kind.kind != 'O' else 'strings'}, which no Model takes")
    return made


def _convert(words: list[str]) -> None:
    from tf2onnx import convert

    sys.argv = ["tf2onnx", *words]
    convert.main()


def _plain(name: str) -> str:
    """A name without what exporters add: serving_default_image:0 → image."""
    return name.removeprefix(f"{_DEFAULT}_").removesuffix(":0")


def _named_anew(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Plain names of inputs and outputs, and one name for the sizes of their batch."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    taken = {o for n in graph.node for o in n.output} | {i.name for i in graph.initializer}
    new = {v.name: _plain(v.name) for v in (*graph.input, *graph.output) if _plain(v.name) not in taken}
    if len(set(new.values())) != len(new):
        new = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) and sizes[0].dim_param and value in (*graph.input, *graph.output):
            sizes[0].dim_param = "batch"
        value.name = new.get(value.name, value.name)
    _rename(graph, new)
    onnx.save(model, str(path))


def _rename(graph: Any, new: dict[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, new)


if __name__ == "__main__":
    from packlight.sources.apart import limit_memory

    limit_memory()
    try:
        main(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  (whatever TensorFlow says is the parent's to tell)
        sys.exit(" ".join(str(error).split())[:400] or type(error).__name__)
