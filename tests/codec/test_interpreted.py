"""Without numba the loops run as plain Python: other integers, the same bytes."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forged_files import forged, pieces_of
from made_files import said_of, save_tensors, tensors_of, verdict

from packlight import loops
from packlight.codec import Coder
from packlight.codec.forms import TYPES, Kind

ROOT = Path(__file__).parents[2]
AGAIN = """
import sys
from pathlib import Path
from made_files import said_of, verdict
from test_interpreted import FORGED, made
from packlight import loops
from packlight.codec import Coder
assert not loops.COMPILED
compiled, folder = Path(sys.argv[1]), Path(sys.argv[2])
for coder in Coder:
    print(verdict(compiled / f"{coder.name}.plt"))
    made(folder / f"{coder.name}.plt", coder)
for case in range(FORGED):
    print(said_of(compiled / f"{case}.plt"))
"""
FORGED = 60


def made(path, coder):
    """A file of every form and element type, few elements each, and levels that take all the digits there are."""
    tensors = {f"{kind}.{dtype}.{name}": tensor.flatten()[:48].reshape(2, 8, 3) if tensor.numel() > 48 else tensor
               for kind in Kind for dtype in TYPES for name, tensor in tensors_of(kind, dtype).items()}  # fmt: skip
    tensors["largest"] = torch.tensor([2**32 - 1, -(2**32) + 1, 0, 5, -1] * 4)
    save_tensors(path, tensors, coder, document="{}" * 50)


def forge(folder):
    """Files that no writer makes, on which integers of 64 bits would wrap and Python's would not."""
    floats = [(Kind.STEPS, "float32"), (Kind.WAVES, "float32"), (Kind.SPARSE, "float16"), (Kind.WORDS, "float64")]
    kinds = [(Kind.LEVELS, "int64"), *floats]
    for case in range(FORGED):
        draw = random.Random(f"plain {case}")
        tensors = {name: t.flatten()[:40].reshape(5, -1) for name, t in tensors_of(*draw.choice(kinds)).items()
                   if t.numel() >= 40}  # fmt: skip
        save_tensors(folder / f"{case}.plt", tensors, draw.choice(list(Coder)))
        (folder / f"{case}.plt").write_bytes(forged(pieces_of(folder / f"{case}.plt"), draw))


def in_plain_python(code, *words):
    environment = {**os.environ, loops.INTERPRETED: "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    return subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code, *map(str, words)],
                          capture_output=True, text=True, env=environment)  # fmt: skip


@pytest.mark.skipif(not loops.COMPILED, reason="numba is not installed: pip install numba")
def test_compiled_and_interpreted_loops_write_the_same_bytes_and_read_all_alike(tmp_path):
    compiled, interpreted = tmp_path / "compiled", tmp_path / "interpreted"
    compiled.mkdir()
    interpreted.mkdir()
    for coder in Coder:
        made(compiled / f"{coder.name}.plt", coder)
    forge(compiled)
    done = in_plain_python(AGAIN, compiled, interpreted)
    assert done.returncode == 0, done.stderr
    said = [verdict(compiled / f"{coder.name}.plt") for coder in Coder]
    assert done.stdout.splitlines() == said + [said_of(compiled / f"{case}.plt") for case in range(FORGED)]
    for coder in Coder:
        name = f"{coder.name}.plt"
        assert (compiled / name).read_bytes() == (interpreted / name).read_bytes(), name
