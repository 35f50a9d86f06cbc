"""Example inputs of a transformers network, made from its config."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packlight.errors import PacklightError
from packlight.sources.hugging_face.folder import read_json

_BATCH, _TOKENS, _SAMPLES, _FRAMES = 2, 12, 16_000, 1024
Dynamic = dict[str, dict[int, str]]


def example_inputs(module: Any, folder: Path | None) -> tuple[dict[str, Tensor], Dynamic]:
    """Input name → tensor, and which axes may be dynamic: batch, tokens."""
    config = module.config
    taken = inspect.signature(module.forward).parameters
    main = module.main_input_name
    made: dict[str, Tensor] = {}
    dynamic: Dynamic = {}
    if main == "input_ids" or (main == "pixel_values" and hasattr(config, "text_config")):
        ids = _tokens(config.get_text_config())
        made |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        dynamic |= {n: {0: "batch", 1: "tokens"} for n in ("input_ids", "attention_mask")}
    if main == "pixel_values" or ("pixel_values" in taken and hasattr(config, "vision_config")):
        made["pixel_values"] = _pixels(getattr(config, "vision_config", config), folder)
    if main in ("input_features", "input_values"):
        made[main] = _sound(config, main)
    unknown = sorted({main} - set(made))
    if unknown:
        raise PacklightError(f"{type(module).__name__} takes {main!r}, which packlight cannot make from its config; "
                             "give example_inputs, a dict of tensors")  # fmt: skip
    if "decoder_input_ids" in taken and config.is_encoder_decoder:
        made["decoder_input_ids"] = _tokens(config.get_text_config(decoder=True))[:, : _TOKENS - 3]
        dynamic["decoder_input_ids"] = {0: "batch", 1: "decoder_tokens"}
    return made, {n: {0: "batch"} | dynamic.get(n, {}) for n in made}


def _tokens(config: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or _TOKENS
    return torch.randint(3, max(4, int(config.vocab_size)), (_BATCH, min(_TOKENS, longest)), generator=generator)


def _pixels(config: Any, folder: Path | None) -> Tensor:
    size = getattr(config, "image_size", None) or _prepared_size(folder) or 224
    if isinstance(size, dict):
        size = (size.get("height", size.get("shortest_edge", 224)), size.get("width", size.get("shortest_edge", 224)))
    height, width = size if isinstance(size, list | tuple) else (size, size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_BATCH, int(getattr(config, "num_channels", 3)), int(height), int(width), generator=generator)


def _prepared_size(folder: Path | None) -> Any:
    """The size that the image processor's file names."""
    if folder is None or not (folder / "preprocessor_config.json").is_file():
        return None
    said = read_json(folder / "preprocessor_config.json")
    return said.get("crop_size") if said.get("do_center_crop", True) and said.get("crop_size") else said.get("size")


def _sound(config: Any, name: str) -> Tensor:
    """A waveform, or frames of mel bands in the order that the network's kind takes them."""
    generator = torch.Generator().manual_seed(0)
    bands = getattr(config, "num_mel_bins", None)
    if bands is None:
        return torch.randn(_BATCH, _SAMPLES, generator=generator)
    if (positions := getattr(config, "max_source_positions", None)) and name == "input_features":
        return torch.randn(_BATCH, bands, 2 * positions, generator=generator)
    return torch.randn(_BATCH, getattr(config, "max_length", None) or _FRAMES, bands, generator=generator)
