"""Every architecture family of keras.applications, with random weights, beside Keras' own predict.

`python tests/sources/keras_families.py [NAME …]` writes a line each: seconds, permutes in the graph, or what was said.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import packlight as pl
from packlight.errors import PacklightError

FAMILIES = {
    "MobileNetV2": 32, "MobileNetV3Small": 32, "MobileNet": 32, "ResNet50": 32, "ResNet50V2": 32, "VGG16": 32,
    "DenseNet121": 32, "EfficientNetB0": 32, "EfficientNetV2B0": 32, "ConvNeXtTiny": 32, "Xception": 71,
    "InceptionV3": 75, "InceptionResNetV2": 75, "NASNetMobile": 32,
}  # fmt: skip

_WRITE = """
import sys, keras
made = getattr(keras.applications, sys.argv[1])(weights=None, include_top=False, pooling="avg",
                                                input_shape=(int(sys.argv[2]), int(sys.argv[2]), 3))
made.save(sys.argv[3])
"""


def loaded(name: str, folder: Path) -> pl.Model:
    """The family's network as a Model; packlight itself compares the outputs."""
    path = folder / f"{name}.keras"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    command = [sys.executable, "-c", _WRITE, name, str(FAMILIES[name]), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PacklightError(f"Keras cannot make it: {done.stderr.strip().splitlines()[-1]}")
    return pl.load(path)


def permutes(model: pl.Model) -> int:
    """Permutes in the graph."""
    return sum("permute" in str(n.target) for n in model.nodes if n.op == "call_function")


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as place:
            began = time.monotonic()
            try:
                said = f"same outputs, {permutes(loaded(family, Path(place)))} permutes"
            except PacklightError as error:
                said = str(error)
            sys.stdout.write(f"{family}: {said} ({time.monotonic() - began:.0f} s)\n")
            sys.stdout.flush()
