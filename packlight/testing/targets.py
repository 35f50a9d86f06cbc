"""The contract of targets: the file computes on its runtime what the Model computes, or the user is told why not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from packlight.errors import ChildFailure, MissingRuntime, PacklightError

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.targets import Artifact, Child, Target

_DECLARED = "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2])"
_NO_SUCH_PACKAGE = "packlight_has_no_such_runtime"


class TargetContract(ABC):
    """Subclass in your tests; pytest finds the rest. Tests that need the runtime are skipped where it is missing.

    largest_error: form → root mean square of the difference over that of the Model's outputs; "quantized" stands for
    quantized Models in the first form. Forms that are not named are held to 5e-3. A scale that is wrong by 1 % must
    not pass, which a test of its own makes sure of.
    """

    largest_error: Mapping[str, float] = {"float32": 1e-5, "quantized": 5e-3}
    _files: ClassVar[dict[tuple[int, str], tuple[Model, Artifact]]]
    _folder: ClassVar[tempfile.TemporaryDirectory[str]]
    _exporter: ClassVar[Child | None]

    @abstractmethod
    def target(self) -> Target:
        """The target."""

    def models(self) -> Sequence[Model]:
        """Networks to export, their batch dynamic; two small ones unless overridden."""
        from packlight.testing.examples import models

        return models()

    def exporter(self) -> Child:
        """A child process to convert in; one for all tests of the class unless overridden."""
        from packlight.targets import Child

        if self._exporter is None or not self._exporter.alive:
            type(self)._exporter = Child(self.target())
        assert self._exporter is not None
        return self._exporter

    @classmethod
    def setup_class(cls) -> None:
        """Called by pytest: files are exported once for all tests."""
        cls._files, cls._exporter = {}, None
        cls._folder = tempfile.TemporaryDirectory(prefix="packlight-")

    @classmethod
    def teardown_class(cls) -> None:
        """Called by pytest."""
        if cls._exporter is not None:
            cls._exporter.close()
        cls._folder.cleanup()

    # what it declares

    def test_it_declares_everything(self) -> None:
        from packlight.model.numerics import Numerics
        from packlight.targets import Target

        target = self.target()
        assert isinstance(target, Target)
        assert isinstance(target.numerics, Numerics)
        assert target.name and target.name == target.name.strip(), "users write the name"
        assert target.install.strip(), "the install line says how the runtime is brought here"
        assert target.suffix.startswith("."), f"a suffix starts with a dot, got {target.suffix!r}"
        declared: tuple[object, ...] = (target.packages, target.forms)
        for field in declared:
            assert isinstance(field, tuple) and field and all(isinstance(name, str) for name in field), field

    def test_a_child_process_can_make_it(self) -> None:
        target = self.target()
        assert type(target)() == target, "a target takes no arguments and has no state"
        assert ":" in target.address

    def test_declaring_imports_neither_its_runtime_nor_torch(self) -> None:
        target = self.target()
        heavy = {"torch", *(p.partition(".")[0] for p in target.packages)} - {"numpy"}
        code = f"{_DECLARED}; print(*sorted({heavy!r} & set(sys.modules)))"
        module = target.address.partition(":")[0]
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps([str(p) for p in sys.path]), module],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not done.stdout.split(), f"importing {module} imports {done.stdout.strip()}"

    def test_a_missing_runtime_is_told_with_its_install_line(self) -> None:
        from packlight.targets import Artifact, Runner, export

        target = self.target()
        if target.environment is None:
            target.packages, told = (*target.packages, _NO_SUCH_PACKAGE), _NO_SUCH_PACKAGE
        else:
            target.environment, told = _NO_SUCH_PACKAGE, "environment"
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            path = Path(folder) / f"net{target.suffix}"
            for use in (
                lambda: export(self.models()[0], path, target),
                *(
                    []
                    if target.elsewhere
                    else [lambda: Runner(Artifact(path, target, {"name": "net", "files": {}, "inputs": []}))]
                ),
            ):
                error = _raised(use, MissingRuntime)
                assert target.install in error and told in error, error
            assert not list(Path(folder).iterdir()), "something was written all the same"

    # what it computes

    def test_the_file_computes_what_the_model_computes(self) -> None:
        for i, form in self._cases():
            model, artifact = self._file(i, form)
            self._agree(model, artifact, form)

    def test_a_scale_that_is_wrong_by_one_percent_would_be_noticed(self) -> None:
        from packlight.testing.examples import one_percent_off

        for i, form in self._cases():
            model, artifact = self._file(i, form)
            found = self._difference(one_percent_off(model), artifact, 16)
            assert not found.within(self._limit(form)), f"{model.name} as {form}: {found} passes"

    def test_a_quantized_model_keeps_its_accuracy_in_the_file(self) -> None:
        if not self.target().numerics.groups:
            raise unittest.SkipTest(f"{self.target().name} declares no low-precision arithmetic")
        model, artifact = self._file(0, "quantized")
        self._agree(model, artifact, "quantized")

    def test_exporting_again_gives_the_same_bytes(self) -> None:
        _, first = self._file(0, self.target().forms[0])
        again = self._export(self.models()[0], "again", self.target().forms[0])
        both = [[(a.path.parent / name).read_bytes() for name in a.manifest["files"]] for a in (again, first)]
        assert both[0] == both[1], "the same Model became two different files"

    def test_the_artifact_is_what_its_manifest_says(self) -> None:
        target = self.target()
        model, artifact = self._file(0, target.forms[0])
        artifact.verify()
        versions = artifact.manifest["versions"]
        assert versions and all(isinstance(v, str) for v in versions.values()), f"versions are {versions}"
        assert [i["name"] for i in artifact.manifest["inputs"]] == [s.name for s in model.inputs]
        folder = artifact.path.parent
        assert artifact.bytes == sum((folder / n).stat().st_size for n in artifact.manifest["files"])

    # what goes wrong

    def test_a_crashing_converter_is_one_line_and_leaves_what_was_there(self) -> None:
        with self._place() as path:
            _, kept = self._file(0, self.target().forms[0])
            path.write_bytes(kept.path.read_bytes())
            exporter, told = self._interrupted(path, lambda pid: os.kill(pid, signal.SIGSEGV))
            assert "write crashed (SIGSEGV)" in told, told
            assert path.read_bytes() == kept.path.read_bytes(), "the file that was there is gone"
            assert [p.name for p in path.parent.iterdir()] == [path.name], "something half-written was left"
            assert not _alive(exporter.pid), "the child process was left behind"

    def test_a_hanging_converter_ends_at_its_limit(self) -> None:
        with self._place() as path:
            exporter, told = self._interrupted(path, lambda pid: os.kill(pid, signal.SIGSTOP), time_limit=1.0)
            assert "write did not finish within 1 s" in told, told
            assert not list(path.parent.iterdir()), "something half-written was left"
            assert not _alive(exporter.pid), "the child process was left behind"

    def test_a_file_that_is_cut_short_is_refused(self) -> None:
        from packlight.files import sha256
        from packlight.targets import Artifact, Runner

        self._need_system()
        _, whole = self._file(0, self.target().forms[0])
        with self._place() as path:
            path.write_bytes(whole.path.read_bytes()[: whole.bytes // 2])
            files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}}
            inputs = self._inputs(0, whole.fixed_batch or 1)
            for name in list(whole.manifest["files"])[1:]:
                (path.parent / name).write_bytes((whole.path.parent / name).read_bytes())

            def use() -> None:
                with Runner(Artifact(path, self.target(), {**whole.manifest, "files": files}), 1, inputs):
                    pass

            told = _raised(use, PacklightError)
            assert "\n" not in told, told

    # how

    def _cases(self) -> Iterator[tuple[int, str]]:
        """Which networks to export in which form: the first in all, the others in the plainest."""
        yield from ((0, form) for form in self.target().forms)
        yield from ((i, self.target().forms[0]) for i in range(1, len(self.models())))

    def _limit(self, form: str) -> float:
        return self.largest_error.get(form, 5e-3)

    def _agree(self, model: Model, artifact: Artifact, form: str) -> None:
        for batch in (16,) if artifact.fixed_batch else (1, 3, 16):
            found = self._difference(model, artifact, batch)
            told = f"{model.name} as {form}, batch {batch}: {found}, error {self._limit(form)} is allowed"
            assert found.within(self._limit(form)), told

    def _difference(self, model: Model, artifact: Artifact, batch: int) -> Any:
        from packlight.measure.quality import torch_runner
        from packlight.targets import Runner, adapted
        from packlight.testing.examples import inputs_of, worst

        self._need_system()
        model, _ = adapted(model, artifact.target.numerics)
        inputs = inputs_of(model, artifact.fixed_batch or batch)
        with Runner(artifact) as runner:
            return worst(runner(*inputs), torch_runner(model)(*inputs))

    def _inputs(self, i: int, batch: int) -> tuple[Any, ...]:
        from packlight.testing.examples import inputs_of

        return inputs_of(self.models()[i], batch)

    def _file(self, i: int, form: str) -> tuple[Model, Artifact]:
        """The i-th network and its file; exported once."""
        if (i, form) not in self._files:
            model, stored = self.models()[i], form
            if form == "quantized":
                from packlight.passes.quantize import quantize
                from packlight.testing.examples import random_task

                model = quantize(model, random_task(model), self.target().numerics)
                stored = self.target().forms[0]
            self._files[i, form] = model, self._export(model, f"{i}-{form}", stored)
        return self._files[i, form]

    def _export(self, model: Model, name: str, form: str) -> Artifact:
        from packlight.targets import export

        self._need_runtime()
        path = Path(self._folder.name) / f"{name}{self.target().suffix}"
        return export(model, path, self.target(), form=form, exporter=self.exporter())

    def _need_runtime(self) -> None:
        try:
            self.target().require()
        except MissingRuntime as missing:
            raise unittest.SkipTest(str(missing)) from missing

    def _need_system(self) -> None:
        if where := self.target().elsewhere:
            raise unittest.SkipTest(f"{self.target().name} files run on {where}")

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Where a file could be written, alone in its folder."""
        self._need_runtime()
        with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
            yield Path(folder) / f"net{self.target().suffix}"

    def _interrupted(self, path: Path, act: Callable[[int], None], time_limit: float = 60.0) -> tuple[Child, str]:
        """Export in a child that something happens to meanwhile; the child, and what the user is told."""
        from packlight.targets import Child, export

        if os.name != "posix":
            raise unittest.SkipTest("needs signals")
        with Child(self.target()) as exporter:
            timer = threading.Timer(0.3, act, (exporter.pid,))
            timer.start()
            model, target = self.models()[0], self.target()
            told = _raised(lambda: export(model, path, target, exporter=exporter, time_limit=time_limit), ChildFailure)
            timer.join()
        return exporter, told


def _raised(use: Callable[[], object], kind: type[PacklightError]) -> str:
    """The message of the error that is expected."""
    try:
        use()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
