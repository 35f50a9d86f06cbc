"""A network's folder: config.json and weights, read without running what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packlight.errors import PacklightError
from packlight.model.companions import MAX_BYTES, NAMES

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MAX_CONFIG_BYTES = 1 << 24
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}\Z")


def is_folder(path: Path) -> bool:
    """Whether a folder is one of Hugging Face's."""
    return path.is_dir() and (path / CONFIG).is_file()


def cached(name: str) -> Path | None:
    """The folder of an id such as "org/net" in the local cache, None where it is no id or not there."""
    if not _REPOSITORY.match(name) or ".." in name:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, CONFIG)
    return Path(found).parent if isinstance(found, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, or PacklightError for what is none or says something that is not loaded."""
    config = read_json(folder / CONFIG)
    said = next((k for k in _keys(config) if k == "quantization_config"), None)
    if said:
        raise PacklightError(f"{folder} holds weights that another tool quantized; give the float network")
    if (folder / "adapter_config.json").exists():
        raise PacklightError(f"{folder} holds an adapter; merge it into its network first (merge_and_unload)")
    if not any((folder / n).is_file() for n in _WEIGHTS):
        raise PacklightError(f"{folder} has a config.json and no weights; it needs model.safetensors")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object in a file."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {_MAX_CONFIG_BYTES:,} bytes")
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PacklightError(f"{path} is no JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(held, dict):
        raise PacklightError(f"{path} is no JSON object")
    return held


def harmless(config: Any) -> Any:
    """A copy without what names code of its own or a kernel to fetch, at any depth."""
    if isinstance(config, dict):
        return {k: harmless(v) for k, v in config.items() if k != "auto_map" and "attn_implementation" not in k}
    return [harmless(v) for v in config] if isinstance(config, list) else config


def has_safetensors(folder: Path) -> bool:
    """Whether the weights are safetensors; shards must lie in the folder."""
    index = folder / _WEIGHTS[1]
    if not (folder / _WEIGHTS[0]).is_file() and index.is_file():
        shards = read_json(index).get("weight_map", {})
        outside = next((s for s in shards.values() if not isinstance(s, str) or Path(s).name != s), None)
        if outside is not None:
            raise PacklightError(f"{index} names a file outside its folder: {str(outside)[:80]!r}")
        return True
    return (folder / _WEIGHTS[0]).is_file()


def companions(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files of the tokenizer and the like, and notes on those that are too large to carry along."""
    found: dict[str, bytes] = {}
    notes = []
    for name in NAMES:
        path = folder / name
        if not path.is_file():
            continue
        if sum(map(len, found.values())) + path.stat().st_size > MAX_BYTES:
            notes.append(f"{name} is not carried along: with it, the files beside the network pass {MAX_BYTES:,} bytes")
            continue
        found[name] = path.read_bytes()
    return found, notes


def _keys(held: Any) -> Iterator[str]:
    if isinstance(held, dict):
        yield from held
    for inner in held.values() if isinstance(held, dict) else held if isinstance(held, list) else ():
        yield from _keys(inner)
