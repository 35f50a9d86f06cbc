"""The programs beside an artifact run it, without packlight, on nothing but the runtime."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import packlight as pl
from packlight.targets import Artifact, get, installed
from packlight.testing.examples import models

COMPILED = ("aotinductor",)  # ten seconds and more a file


def with_examples():
    for target in installed():
        if target.examples and target.examples.is_dir():
            yield pytest.param(target.name, marks=[pytest.mark.slow] if target.name in COMPILED else [])


@pytest.fixture(scope="module", params=with_examples())
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "out"
    artifact = pl.export(models()[0], place, target=request.param)
    return get(request.param), artifact, place


def test_the_python_program_runs_the_file_without_packlight(folder):
    target, _, place = folder
    code = (place / "run.py").read_text()
    assert "packlight" not in re.sub(r"#.*", "", code)
    python = target.python if target.environment else sys.executable
    done = subprocess.run([str(python), "run.py"], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\([12], 4\)", done.stdout), done.stdout


def test_the_folder_opens_as_an_artifact(folder):
    target, artifact, place = folder
    assert Artifact.open(place).manifest["target"] == target.name
    assert {p.name for p in place.iterdir()} >= {"manifest.json", "run.py", *artifact.manifest["files"]}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_the_other_program_is_c_plus_plus(folder):
    """Headers of most runtimes are not in their wheels: of those only the brackets are looked at."""
    _, _, place = folder
    source = place / "run.cpp"
    if not source.exists():
        pytest.skip("its platform speaks another language")
    text = source.read_text()
    assert text.count("{") == text.count("}") and text.count("(") == text.count(")")
    assert "{{" not in text and "{%" not in text


def openvino_flags():
    import openvino

    home = Path(openvino.__file__).parent
    (library,) = (home / "libs").glob("libopenvino.so.*")
    return ["-std=c++17", f"-I{home}/include", str(library), f"-Wl,-rpath,{home}/libs"]


def torch_flags():
    import torch

    home = Path(torch.__file__).parent
    return ["-std=c++20", f"-I{home}/include", f"-I{home}/include/torch/csrc/api/include", f"-L{home}/lib",
            f"-Wl,-rpath,{home}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]  # fmt: skip


HEADERS = {"openvino": openvino_flags, "aotinductor": torch_flags}  # runtimes whose wheels hold them


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
@pytest.mark.parametrize("target", [name for name in HEADERS if name in {t.name for t in installed()}])
def test_the_c_plus_plus_program_compiles_and_runs_the_file(target, tmp_path):
    place = tmp_path / "out"
    pl.export(models()[0], place, target=target)
    compiler = ["g++", "run.cpp", *HEADERS[target](), "-o", "run"]
    built = subprocess.run(compiler, cwd=place, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    done = subprocess.run(["./run"], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[[12], ?4\]", done.stdout), done.stdout


@pytest.mark.parametrize(
    "change",
    [{"inputs": [{"name": "x", "dtype": "float32); import os #", "shape": [1]}]},
     {"files": {"a\nimport os.onnx": {"bytes": 1, "sha256": "0" * 64}}}],
    ids=["dtype", "file"],
)  # fmt: skip
def test_no_program_is_made_of_a_manifest_that_could_put_code_into_it(folder, change):
    from packlight.targets.examples import programs

    target, artifact, _ = folder
    manifest = {**artifact.manifest, **change}
    assert programs(target.examples, artifact.manifest)
    assert programs(target.examples, manifest) == {}


def test_text_of_a_manifest_is_quoted(folder):
    from packlight.targets.examples import programs

    target, artifact, _ = folder
    worst = 'x"\n); import os; (\n"'
    manifest = json.loads(json.dumps({**artifact.manifest, "name": worst}))
    manifest["inputs"][0]["name"] = worst
    for name, text in programs(target.examples, manifest).items():
        assert "\n); import os" not in text, name
        if name.endswith(".py"):
            compile(text, name, "exec")
