"""An exported file with its manifest, and a Runner that executes it in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from packlight.errors import PacklightError
from packlight.files import make_folder, sha256
from packlight.targets.contract import Target
from packlight.targets.examples import programs
from packlight.targets.host import Child
from packlight.targets.manifest import FOLDER_MANIFEST, Facts, as_text, check_arrays, find, replace_together

OPEN_LIMIT_S = 120.0
RUN_LIMIT_S = 600.0
Companions = Mapping[str, bytes]


@dataclass(frozen=True)
class Artifact:
    """A file for a runtime. manifest: JSON facts about it (see `packlight.targets.manifest`)."""

    path: Path
    target: Target
    manifest: Facts = field(repr=False)

    @property
    def bytes(self) -> int:
        """Size on disk of everything the runtime loads."""
        return sum(f["bytes"] for f in self.manifest["files"].values())

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file insists on, None when it takes any."""
        shape = self.manifest["inputs"][0]["shape"] if self.manifest["inputs"] else ()
        return shape[0] if shape and isinstance(shape[0], int) else None

    def verify(self) -> None:
        """Raise PacklightError unless every file still has the size and sha256 that the manifest states."""
        for name, facts in self.manifest["files"].items():
            file = self.path.parent / name
            try:
                if file.stat().st_size == facts["bytes"] and sha256(file) == facts["sha256"]:
                    continue
            except FileNotFoundError:
                raise PacklightError(f"{file} is missing, the manifest of {self.path.name} lists it") from None
            except OSError as error:
                raise PacklightError(f"cannot read {file}: {error.strerror or error}") from error
            raise PacklightError(f"{file} is not the file its manifest describes (size or sha256 differs)")

    @staticmethod
    def open(path: str | Path) -> Artifact:
        """An artifact from its folder, its manifest or its file; the manifest stands beside the file."""
        from packlight.targets import get

        found, manifest = find(Path(path))
        try:
            target = get(manifest["target"])
        except PacklightError as error:
            raise PacklightError(f"{found}: {error}") from error
        artifact = Artifact(found.parent / next(iter(manifest["files"])), target, manifest)
        artifact.verify()
        return artifact

    def save(
        self,
        folder: str | Path,
        extra: Mapping[str, Any] | None = None,
        companions: Companions | None = None,
    ) -> Artifact:
        """Copy the files into a folder, with `manifest.json` and the smallest programs that run them beside them;
        `extra` adds manifest entries, `companions` what belongs to the network, such as its tokenizer's files."""
        self.verify()
        folder = Path(folder)
        make_folder(folder)
        manifest = {**self.manifest, **(extra or {})}
        text = as_text(manifest).encode()
        copies = [(folder / n, partial(shutil.copyfile, self.path.parent / n)) for n in self.manifest["files"]]
        texts = {FOLDER_MANIFEST: text, **{n: t.encode() for n, t in programs(self.target.examples, manifest).items()}}
        texts = {**(companions or {}), **texts}
        written = [(folder / n, partial(_fill, t)) for n, t in texts.items() if n not in self.manifest["files"]]
        replace_together([*written, *copies])
        return Artifact(folder / self.path.name, self.target, manifest)


def _fill(content: bytes, temporary: str) -> None:
    Path(temporary).write_bytes(content)


class Runner:
    """Runs an artifact in a child process: numpy arrays in, tuple of numpy arrays out.

    threads: of the runtime, pinned to as many processors. example: inputs of a first run, which belongs to the
    cold start. Close it, or use it as a context manager.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, example: tuple[Any, ...] = ()):
        if where := artifact.target.elsewhere:
            raise PacklightError(f"{artifact.path.name} does not run here: {artifact.target.name} files run on {where}")
        artifact.verify()
        if example:
            example = check_arrays(artifact.manifest, example)
        self.artifact, self.threads = artifact, threads
        self._child = Child(artifact.target)
        try:
            facts, _ = self._child.call(
                "open", example, path=str(artifact.path), threads=threads, time_limit=OPEN_LIMIT_S
            )
        except BaseException:
            self._child.close()
            raise
        self.cold_start_s: float = facts["cold_start_s"]
        self._before: int = facts["resident_before"]

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file insists on, None when it takes any."""
        return self.artifact.fixed_batch

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        _, outputs = self._child.call("run", check_arrays(self.artifact.manifest, inputs), time_limit=RUN_LIMIT_S)
        return tuple(outputs)

    def time(self, inputs: tuple[Any, ...], seconds: float, least: int = 3) -> list[float]:
        """Seconds of each of at least `least` runs over at least `seconds`, timed inside the child."""
        inputs = check_arrays(self.artifact.manifest, inputs)
        facts, _ = self._child.call("time", inputs, seconds=seconds, least=least, time_limit=RUN_LIMIT_S)
        taken: list[float] = facts["seconds"]
        return taken

    def profile(self, inputs: tuple[Any, ...], seconds: float) -> dict[str, float]:
        """Median seconds of every operator by its name in the file, the profiler's own work included."""
        inputs = check_arrays(self.artifact.manifest, inputs)
        where = {"path": str(self.artifact.path), "threads": self.threads}
        facts, _ = self._child.call("profile", inputs, seconds=seconds, time_limit=RUN_LIMIT_S, **where)
        taken: dict[str, float] = facts["seconds"]
        return taken

    def peak_memory(self) -> int:
        """Bytes that opening and running added to the child, at the highest."""
        facts, _ = self._child.call("memory", time_limit=OPEN_LIMIT_S)
        return max(0, facts["peak"] - self._before)

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
