"""A timm network in a local folder: the module that its config names, with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.sources.hugging_face.folder import CONFIG
from packlight.sources.hugging_face.libraries import require_timm
from packlight.sources.weights import load_weights

_NAME = re.compile(r"\w{1,100}\Z")
_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_FETCHED = "url", "file", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "state_dict"
_CHANNELS, _SIDE, _LARGEST = 3, 224, 4096


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of timm's."""
    return "architecture" in config and "model_type" not in config


def make_timm(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The module in eval mode; `model_args`, `num_classes` and `pretrained_cfg` of the config are followed."""
    timm = require_timm()
    name = config["architecture"]
    if not isinstance(name, str) or not _NAME.match(name) or not timm.is_model(name):
        raise PacklightError(f"{folder}: architecture {str(name)[:80]!r} is none of timm {timm.__version__}")
    said, arguments = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    if not isinstance(said, dict) or not isinstance(arguments, dict):
        raise PacklightError(f"{folder / CONFIG}: pretrained_cfg and model_args are no JSON objects")
    weights = next((p for n in _WEIGHTS if (p := folder / n).is_file()), None)
    if weights is None:
        raise PacklightError(f"{folder}: weights of timm stand in one file, {' or '.join(_WEIGHTS)}")
    prepared = {k: v for k, v in said.items() if k not in _FETCHED}
    _picture(prepared.get("input_size"))
    if "num_classes" in config:
        prepared["num_classes"] = config["num_classes"]
    made: nn.Module = timm.create_model(name, pretrained=False, pretrained_cfg=prepared, **arguments)
    load_weights(made, weights)
    return made.eval()


def example_picture(module: Any) -> Tensor:
    """Two pictures of the size that the network was trained at: [2, channels, height, width]."""
    size = _picture((getattr(module, "pretrained_cfg", None) or {}).get("input_size"))
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def _picture(size: Any) -> tuple[int, ...]:
    """Channels, height, width, checked; where nothing is said, those of most."""
    size = (_CHANNELS, _SIDE, _SIDE) if size is None else size
    sized = isinstance(size, list | tuple) and len(size) == _CHANNELS
    if not sized or not all(isinstance(n, int) and 0 < n <= _LARGEST for n in size):
        told = f"pretrained_cfg: input_size {str(size)[:60]}"
        raise PacklightError(f"{told} is not channels, height, width up to {_LARGEST}")
    return tuple(size)
