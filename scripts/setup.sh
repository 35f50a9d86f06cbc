#!/usr/bin/env bash
# Make the virtual environment, if there is none, and install packlight in it, editable, with the pinned versions.
#
#   scripts/setup.sh [EXTRAS]        EXTRAS: comma-separated names from pyproject.toml, "onnxruntime" by default
#
# VENV: the environment's folder (.venv). PYTHON: the interpreter to make it with (the first of 3.11, 3.12, 3.13 found).
# The constraints that were really used are left in $VENV/constraints.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:-onnxruntime}
venv=${VENV:-.venv}
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

say() { echo "packlight: $*"; }
fail() { echo "packlight: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$candidate" -c "$supported" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    if [[ -n ${PYTHON:-} ]]; then
        fail "PYTHON=$PYTHON is not a working Python 3.11, 3.12 or 3.13."
    fi
    fail "found no Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.12 ..."
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# Where the package index has no CPU-only build of torch, take the default build of the same version.
choose_constraints() {
    local build
    build=$(sed -n 's/^\(torch==[^ ;]*+cpu\).*/\1/p' constraints.txt)
    if [[ $(uname -s) != Linux || -z $build ]] || pip install -q --dry-run --no-deps "$build" >/dev/null 2>&1; then
        cat constraints.txt
    else
        say "pip finds no $build here; taking ${build%+cpu} (on Linux x86-64 that brings CUDA libraries, several GB)" >&2
        sed 's/+cpu//' constraints.txt
    fi
}

mkdir -p "$venv"
if command -v flock >/dev/null; then
    exec 9>"$venv/.lock"
    flock 9  # two makes at once wait for each other
fi
if ! "$venv/bin/python" -c "$supported" >/dev/null 2>&1; then
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" ||
        fail "could not make $venv; on Debian and Ubuntu: apt-get install python3-venv. Then delete $venv and try again."
fi
say "installing packlight[$extras] in $venv (the first time: some minutes, more than 1 GB)"
choose_constraints >"$venv/constraints.txt"
pip install -qq -e ".[$extras]" -c "$venv/constraints.txt"
