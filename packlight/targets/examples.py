"""The smallest programs that run an artifact without packlight: a folder of templates a target.

`packlight/data/examples/NAME` holds them, in Python and in the platform's own language; a template sees the manifest's
facts, and every text from there goes through `tojson`, which quotes it in all of these languages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packlight.targets.manifest import Facts

_TYPES = frozenset("float32 float64 float16 int64 int32 int16 int8 uint8 bool".split())
_FILE = re.compile(r"[\w.-][\w. -]*\Z")
_NOT_PLAIN = re.compile(r"[^\w.,: -]+")
_HERE = Path(__file__).parent.parent / "data" / "examples"


def programs(folder: Path | None, manifest: Facts) -> dict[str, str]:
    """File name → text, of the templates in a folder; none where there is none."""
    if folder is None or not folder.is_dir() or not _plain(manifest):
        return {}
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True)  # fmt: skip
    facts = _facts(manifest)
    return {
        path.name.removesuffix(".jinja"): environment.from_string(path.read_text(encoding="utf-8")).render(facts)
        for path in sorted(folder.glob("*.jinja"))
    }


def built_in(target: str) -> Path:
    """Where a target that ships with packlight has its templates."""
    return _HERE / target


def _plain(manifest: Facts) -> bool:
    """Whether what goes into a program unquoted is no more than a word: a manifest can be anybody's."""
    types = {s["dtype"] for s in (*manifest["inputs"], *manifest["outputs"])}
    return bool(types <= _TYPES) and all(_FILE.match(name) for name in manifest["files"])


def _facts(manifest: Facts) -> dict[str, Any]:
    """What templates see. sizes: of an input, a usable size for every dimension; elements: their product."""
    files = list(manifest["files"])
    return {
        "name": _NOT_PLAIN.sub(" ", str(manifest["name"])), "file": files[0], "files": files,
        "inputs": [_spec(s, manifest.get("dims", {})) for s in manifest["inputs"]],
        "outputs": [dict(s) for s in manifest["outputs"]], "preprocessing": dict(manifest.get("preprocessing", {})),
    }  # fmt: skip


def _spec(spec: Mapping[str, Any], dims: Mapping[str, int]) -> dict[str, Any]:
    sizes = [int(dims.get(d, 1)) if isinstance(d, str) else d for d in spec["shape"]]
    return {**spec, "sizes": sizes, "elements": math.prod(sizes)}
