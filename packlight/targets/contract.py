"""What a runtime has to offer to be a target: two methods, and a declaration of its numerics.

Imports nothing heavy: this module is loaded in every child process, also in those that only time a file.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packlight.errors import MissingRuntime

if TYPE_CHECKING:
    from packlight.model import Model
    from packlight.model.numerics import Numerics


class Session(ABC):
    """An opened file, inside the child process. Arrays in and out are numpy arrays in the file's order."""

    @abstractmethod
    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for one set of inputs."""


class Target(ABC):
    """A runtime that networks are exported to. One file and one final class a runtime.

    name: what users write. install: the command that brings the runtime. suffix: of the exported file.
    packages: importable names that must be there. forms: weight forms that `write` knows, the plainest first.
    """

    name: str
    install: str
    suffix: str
    packages: tuple[str, ...]
    forms: tuple[str, ...]

    @property
    @abstractmethod
    def numerics(self) -> Numerics:
        """The runtime's low-precision arithmetic."""

    @abstractmethod
    def write(self, model: Model, path: Path, form: str, dims: Mapping[str, int]) -> None:
        """Convert a Model to one file at `path`. Runs in a child process.

        form: one of `forms`. dims: sizes for dynamic dimensions that this runtime cannot keep dynamic.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> Session:
        """Open a file for running on this many threads. Runs in a child process."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the packages that convert and run."""

    def require(self) -> None:
        """Raise MissingRuntime with the install line unless everything is there."""
        missing = [p for p in self.packages if importlib.util.find_spec(p) is None]
        if missing:
            raise MissingRuntime(
                f"target {self.name!r} needs {', '.join(missing)}, not installed here; run: {self.install}"
            )

    @property
    def address(self) -> str:
        """Where a child process finds this class: "module:Class"."""
        return f"{type(self).__module__}:{type(self).__qualname__}"
