"""`python -m benchmarks.onnx_nodes`: how many of onnx's node tests packlight and onnx2torch open as torch networks."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import ROOT
from benchmarks.environments import make


def main() -> int:
    """Make onnx2torch's environment (once) and run the tests in it; the script's exit code."""
    script = ROOT / "benchmarks" / "peers" / "onnx2torch_nodes.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([make("onnx2torch"), str(script)], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
