#!/usr/bin/env bash
# Build the wheel, install it in an empty environment away from the checkout, and see that it works there.
# Needs .venv as `make test` leaves it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/${VENV:-.venv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "packlight: $*"; }

say "building the wheel"
"$venv/bin/python" -m build --wheel --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
wheel=$(echo "$work"/dist/packlight-*.whl)

"$venv/bin/python" - "$wheel" <<'PYTHON'
import sys, zipfile
from pathlib import Path

shipped = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if name.startswith("packlight/")}
ours = {p.as_posix() for p in Path("packlight").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
if shipped != ours:
    sys.exit(f"packlight: wheel and checkout differ: {sorted(shipped ^ ours)}")
PYTHON

say "installing $(basename "$wheel") in an empty environment"
"$venv/bin/python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -qq -c "$venv/constraints.txt" "$wheel[onnxruntime]"

cd "$work"
export PATH=$work/venv/bin:$PATH
packlight --version
packlight --help >/dev/null
packlight targets
python -c "
import packlight
assert packlight.__file__.startswith('$work/'), packlight.__file__
missing = [name for name in packlight.__all__ if not hasattr(packlight, name)]
assert not missing, missing
"
say "the wheel works in an empty environment"
