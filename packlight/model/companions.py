"""Files that belong to a network beside its graph: its tokenizer, how inputs are prepared, what classes are called.

A Model carries their bytes through every pass and file; nothing here opens them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from packlight.errors import PacklightError

NAMES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
MAX_BYTES = 8 << 20  # of all together: a description of more is refused by the reader of .plt files


def check(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, or PacklightError where a name is not one of `NAMES` or they are too large together."""
    foreign = next((n for n in files if n not in NAMES), None)
    if foreign is not None:
        raise PacklightError(f"file {str(foreign)[:80]!r} is none that belongs to a network: {', '.join(NAMES)}")
    if (size := sum(map(len, files.values()))) > MAX_BYTES:
        raise PacklightError(f"the files beside a network have {size:,} bytes, {MAX_BYTES:,} at most")
    return dict(files)


def written(files: Mapping[str, bytes]) -> dict[str, str]:
    """As JSON values."""
    return {n: base64.b64encode(held).decode() for n, held in files.items()}


def read(values: Any) -> dict[str, bytes]:
    """What `written` wrote, checked."""
    try:
        return check({n: base64.b64decode(held, validate=True) for n, held in values.items()})
    except (binascii.Error, TypeError, AttributeError, ValueError) as error:
        raise PacklightError("the files beside the network are damaged") from error
