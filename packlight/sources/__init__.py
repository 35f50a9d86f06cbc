"""Networks of other frameworks → Model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packlight.model import Model
from packlight.sources.torch_module import from_module
from packlight.sources.weights import load_weights

__all__ = [
    "SOURCE_ENVIRONMENTS", "from_hugging_face", "from_keras", "from_module", "from_onnx", "from_pt2", "from_tensorflow",
    "from_torchscript", "is_tensorflow", "load_weights",
]  # fmt: skip


SOURCE_ENVIRONMENTS = ("tensorflow",)  # that `packlight targets install` makes for sources


def from_hugging_face(source: str | Path, *arguments: Any, **options: Any) -> Model | None:
    """A Model of a folder of Hugging Face, or of an id in the local cache: see packlight.sources.hugging_face.load.
    None where it is neither."""
    from packlight.sources.hugging_face.folder import cached, is_folder

    folder = Path(source) if is_folder(Path(source)) else cached(str(source))
    if folder is None:
        return None
    from packlight.sources.hugging_face.load import from_folder

    return from_folder(folder, *arguments, **options)


def from_keras(path: Path, example_inputs: Any = None, **options: Any) -> Model:
    """A Model of a Keras file: see packlight.sources.keras.load."""
    from packlight.sources.keras.load import from_keras as read

    return read(path, example_inputs, **options)


def is_tensorflow(path: Path) -> bool:
    """Whether this is a `.tflite` file or a SavedModel folder."""
    return (path / "saved_model.pb").is_file() or (path.suffix.lower() == ".tflite" and path.is_file())


def from_tensorflow(path: Path, example_inputs: Any = None, **options: Any) -> Model:
    """A Model of a SavedModel folder or a `.tflite` file: see packlight.sources.tensorflow.load."""
    from packlight.sources.tensorflow.load import from_tensorflow as read

    return read(path, example_inputs, **options)


def from_torchscript(path: Path, example_inputs: Any = None, **options: Any) -> Model | None:
    """A Model of a TorchScript archive: see packlight.sources.torchscript.load. None where it is none."""
    from packlight.sources.torchscript.load import from_torchscript as read
    from packlight.sources.torchscript.load import is_torchscript

    return read(path, example_inputs, **options) if is_torchscript(path) else None


def from_pt2(path: Path, *, trust: bool = False, **options: Any) -> Model:
    """A Model of a `.pt2` archive: see packlight.sources.pt2.load; where it is trusted, packlight.sources.pt2.trusted,
    which runs what the file holds."""
    if trust:
        from packlight.sources.pt2.trusted import from_trusted

        return from_trusted(path, **options)
    from packlight.sources.pt2.load import from_pt2 as read

    return read(path, **options)


def from_onnx(*arguments: Any, **options: Any) -> Model:
    """A Model of an ONNX file: see packlight.sources.onnx.load.from_onnx, whose tables are imported when first used."""
    from packlight.sources.onnx.load import from_onnx as read

    return read(*arguments, **options)
