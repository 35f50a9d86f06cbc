"""The architecture as tests: who imports whom, what is documented, how fast it starts, what is pinned."""

import ast
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import packlight

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNS = 5
IMPORT = "import packlight"
HELP = "import sys; sys.argv = ['packlight', '--help']; from packlight.cli import main; main()"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def seconds(code: str) -> float:
    """Processor seconds of the cheapest of RUNS fresh interpreters: a busy machine does not lengthen them."""
    fastest = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        fastest = min(fastest, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    return fastest


def test_imports_keep_the_contract():
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-logo', '--no-cache'])"
    done = run(lint)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_docstring():
    bare = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "packlight").rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not bare


def test_there_are_public_names():
    assert packlight.__all__
    assert list(packlight.__all__) == list(dict.fromkeys(packlight.__all__))


@pytest.mark.parametrize("name", packlight.__all__)
def test_every_public_name_has_a_docstring_of_its_own(name):
    text = getattr(packlight, name).__doc__
    assert text, f"packlight.{name} has no docstring"
    assert not text.startswith(f"{name}("), f"packlight.{name} has only the signature that @dataclass writes"


def test_the_version_has_its_chapter_in_the_changelog():
    assert f"## [{packlight.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_importing_packlight_imports_no_torch_and_no_runtime():
    heavy = {"torch", "accelerate", "onnx", "onnxruntime", "onnxscript", "plotly", "scipy", "typer"}
    done = run(f"{IMPORT}, sys; print(*sorted({heavy} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_import_takes_less_than_three_tenths_of_a_second():
    assert seconds(IMPORT) - seconds("pass") < 0.3


def test_help_takes_less_than_half_a_second():
    assert seconds(HELP) < 0.5


def test_help_imports_no_torch():
    done = run(f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {HELP}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["False"]


def test_every_dependency_is_pinned_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    asked = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    for want in map(Requirement, asked):
        versions = [
            specifier.version
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(want.name)
            for specifier in pin.specifier
        ]
        assert versions, f"{want.name} has no pin in constraints.txt"
        assert all(want.specifier.contains(version) for version in versions), f"{want} is pinned to {versions}"
