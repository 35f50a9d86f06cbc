"""An exported file with its manifest, and a Runner that executes it in a child process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from packlight.errors import PacklightError
from packlight.files import make_folder, replace_file, sha256, write_text
from packlight.targets.contract import Target
from packlight.targets.host import Child

FORMAT = 1
OPEN_LIMIT_S = 120.0
RUN_LIMIT_S = 600.0


@dataclass(frozen=True)
class Artifact:
    """A file for a runtime. manifest: JSON facts about it (see `packlight.targets.export`)."""

    path: Path
    target: Target
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Size on disk of everything the runtime loads."""
        return sum(f["bytes"] for f in self.manifest["files"].values())

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file insists on, None when it takes any."""
        shape = self.manifest["inputs"][0]["shape"]
        return shape[0] if shape and isinstance(shape[0], int) else None

    def verify(self) -> None:
        """Raise PacklightError unless every file still has the size and sha256 that the manifest states."""
        for name, facts in self.manifest["files"].items():
            file = self.path.parent / name
            if not file.is_file():
                raise PacklightError(f"{file} is missing, the manifest of {self.path.name} lists it")
            if file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
                raise PacklightError(f"{file} is not the file its manifest describes (size or sha256 differs)")

    @staticmethod
    def open(path: str | Path) -> Artifact:
        """An artifact from its folder, its manifest or its file; the manifest stands beside the file."""
        from packlight.targets import get

        path = Path(path)
        places = [path / "manifest.json"] if path.is_dir() else [path, manifest_path(path), path.parent / "manifest.json"]
        found = next((p for p in places if p.is_file() and p.suffix == ".json"), None)
        if found is None:
            raise PacklightError(f"no manifest for {path}: give the folder or file that packlight wrote")
        try:
            manifest = json.loads(found.read_text(encoding="utf-8"))
            names = list(manifest["files"])
            if manifest["packlight"] != FORMAT or any(Path(n).name != n for n in names) or not names:
                raise ValueError("not of this version, or it names files outside its folder")
            artifact = Artifact(found.parent / names[0], get(manifest["target"]), manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PacklightError(f"{found} is no packlight manifest: {error}") from error
        artifact.verify()
        return artifact

    def save(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> Artifact:
        """Copy the files into a folder, with `manifest.json` beside them; `extra` adds manifest entries."""
        folder = Path(folder)
        make_folder(folder)
        for name in self.manifest["files"]:
            replace_file(folder / name, partial(shutil.copyfile, self.path.parent / name))
        manifest = {**self.manifest, **(extra or {})}
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        return Artifact(folder / self.path.name, self.target, manifest)


def manifest_path(file: Path) -> Path:
    """Where the manifest of a single exported file stands: `net.onnx` → `net.manifest.json`."""
    return file.with_name(file.stem + ".manifest.json")


class Runner:
    """Runs an artifact in a child process: numpy arrays in, tuple of numpy arrays out.

    threads: of the runtime, pinned to as many processors. Close it, or use it as a context manager.
    """

    def __init__(self, artifact: Artifact, threads: int = 1, example: tuple[Any, ...] = ()):
        artifact.verify()
        self.artifact = artifact
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
        _, outputs = self._child.call("run", inputs, time_limit=RUN_LIMIT_S)
        return tuple(outputs)

    def time(self, inputs: tuple[Any, ...], seconds: float, least: int = 3) -> list[float]:
        """Seconds of each of at least `least` runs over at least `seconds`, timed inside the child."""
        facts, _ = self._child.call("time", inputs, seconds=seconds, least=least, time_limit=RUN_LIMIT_S)
        taken: list[float] = facts["seconds"]
        return taken

    def peak_memory(self) -> int:
        """Bytes that opening and running added to the child, at the highest."""
        facts, _ = self._child.call("memory", time_limit=OPEN_LIMIT_S)
        return max(0, facts["peak"] - self._before)

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
