"""What a runtime has to offer to be a target: how to write a file and how to open it, and its numerics.

Imports nothing heavy: this module is loaded in every child process, also in those that only time a file.
"""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import MissingRuntime, PacklightError

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics


_SYSTEMS = {"darwin": "macOS", "linux": "Linux", "win32": "Windows"}


class Session(ABC):
    """An opened file, inside the child process. Arrays in and out are numpy arrays in the file's order."""

    @abstractmethod
    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for one set of inputs."""


class Target(ABC):
    """A runtime that networks are exported to. One file and one final class a runtime.

    A target has no options and keeps no state: child processes make one of their own, `YourTarget()`. Importing
    its module imports neither its packages nor torch; the methods that need them do.

    name: what users write. install: the command that brings the runtime. suffix: of the exported file.
    packages: importable names that must be there. forms: weight forms that `write` knows, the plainest first.
    keeps_dynamic: whether its files take any size of a dynamic dimension; otherwise sizes are fixed at export.
    environment: the name of an environment of its own that its packages live in (see
    `packlight.environments`), None where they share ours; its child processes then run there.
    runs_on: the systems that it runs files on, as sys.platform has them, where it writes on more; None for no limit.
    """

    name: str
    install: str
    suffix: str
    packages: tuple[str, ...]
    forms: tuple[str, ...]
    keeps_dynamic: bool = True
    environment: str | None = None
    runs_on: tuple[str, ...] | None = None

    @property
    @abstractmethod
    def numerics(self) -> Numerics:
        """The runtime's low-precision arithmetic."""

    @abstractmethod
    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> Sequence[str] | None:
        """Convert a Model to the file at `path`, alone or with others of its stem beside it. Runs in a child process.

        The Model's quantization is in this target's terms already (see `packlight.targets.adapt`). form: one of
        `forms`. dims: a size for every dynamic dimension, to be fixed unless `keeps_dynamic`. The result is what the
        user should be told, for the manifest's notes. What the user can act on is raised as PacklightError.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Session:
        """Open a file for running on this many threads. Runs in a child process."""

    @property
    def examples(self) -> Path | None:
        """A folder of templates (NAME.jinja) of programs that run an artifact without packlight, None for none."""
        from packlight.targets.examples import built_in

        return built_in(self.name)

    def profile(self, path: Path, threads: int, inputs: Sequence[Any], seconds: float) -> dict[str, float]:
        """Median seconds of every operator of a file, by its name there, over runs that take `seconds` in all. Runs in
        a child process. A runtime that cannot tell raises PacklightError."""
        raise PacklightError(f"target {self.name!r} does not tell how long single operators take")

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the packages that convert and run."""

    @property
    def python(self) -> Path:
        """The interpreter that its child processes run with."""
        from packlight.environments import own_environments

        return Path(sys.executable) if self.environment is None else own_environments().interpreter(self.environment)

    @property
    def elsewhere(self) -> str:
        """Where its files run, in words, if not on this system; "" where they run here."""
        if self.runs_on is None or sys.platform in self.runs_on:
            return ""
        return " and ".join(_SYSTEMS.get(system, system) for system in self.runs_on)

    def require(self) -> None:
        """Raise MissingRuntime with the install line unless everything is there."""
        if self.environment is not None:
            from packlight.environments import own_environments

            if why := own_environments().missing(self.environment):
                raise MissingRuntime(
                    f"target {self.name!r} needs an environment of its own, {why}; run: {self.install}"
                )
            return
        missing = [p for p in self.packages if not _importable(p)]
        if missing:
            raise MissingRuntime(
                f"target {self.name!r} needs {', '.join(missing)}, not installed here; run: {self.install}"
            )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @property
    def address(self) -> str:
        """Where a child process finds this class: "module:Class"."""
        module, name = type(self).__module__, type(self).__qualname__
        if module == "__main__" or "<locals>" in name:
            raise PacklightError(
                f"target {self.name!r} must be a class of a module that a child process can import, "
                f"got {module}:{name}; move it to a file of its own"
            )
        return f"{module}:{name}"


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # the parent of a dotted name is missing, or a module without a spec
        return False
