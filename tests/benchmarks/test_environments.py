"""Environments of peers: made once, made again when their requirements change, whole or not at all."""

import subprocess
import sys
import zipfile

import pytest

from benchmarks.environments import make, python_for
from packlight import PacklightError

pytestmark = pytest.mark.slow  # each makes virtual environments with pip, several seconds apiece


@pytest.fixture
def folders(tmp_path):
    requirements = tmp_path / "environments"
    requirements.mkdir()
    return requirements, tmp_path / "envs"


def wheel(folder, version):
    """A wheel of a package `lonepeer`, so that nothing is fetched."""
    path = folder / f"lonepeer-{version}-py3-none-any.whl"
    info = f"lonepeer-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("lonepeer.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lonepeer\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def run(python, code):
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_peer_without_requirements_runs_in_ours(folders):
    assert str(python_for("none", *folders)) == sys.executable


def test_it_holds_the_peer_beside_our_packages_and_is_made_once(folders, tmp_path):
    (folders[0] / "lone.txt").write_text(f"# pip: --no-index --no-deps\n{wheel(tmp_path, '1.0')}\n")
    python = make("lone", *folders)
    assert run(python, "import lonepeer, numpy, packlight; print(lonepeer.VERSION)") == "1.0"
    where = "import numpy; print(numpy.__file__)"
    assert run(python, where) == run(sys.executable, where)
    made = (folders[1] / "lone" / "stamp").stat().st_mtime_ns
    make("lone", *folders)
    assert (folders[1] / "lone" / "stamp").stat().st_mtime_ns == made


@pytest.mark.parametrize("change", ["requirements", "half-built"])
def test_it_is_made_again(folders, tmp_path, change):
    wanted = folders[0] / "lone.txt"
    wanted.write_text(f"# pip: --no-index\n{wheel(tmp_path, '1.0')}\n")
    make("lone", *folders)
    version = "1.0"
    if change == "requirements":
        version = "2.0"
        wanted.write_text(f"# pip: --no-index\n{wheel(tmp_path, '2.0')}\n")
    else:
        (folders[1] / "lone" / "stamp").unlink()
        (next((folders[1] / "lone").glob("lib/python*/site-packages")) / "lonepeer.py").unlink()
    assert run(make("lone", *folders), "import lonepeer; print(lonepeer.VERSION)") == version


def test_a_failed_install_is_one_clear_line_and_is_tried_again(folders):
    (folders[0] / "lone.txt").write_text("# pip: --no-index\nno-such-package-at-all==1.0\n")
    for attempt in (make, make, python_for):
        with pytest.raises(PacklightError, match=r"ERROR.*no-such-package-at-all") as caught:
            attempt("lone", *folders)
        assert "\n" not in str(caught.value)


def test_an_environment_that_was_not_made_is_told(folders):
    (folders[0] / "lone.txt").write_text("no-such-package-at-all==1.0\n")
    with pytest.raises(PacklightError, match="no environment lone: which has not been made"):
        python_for("lone", *folders)
