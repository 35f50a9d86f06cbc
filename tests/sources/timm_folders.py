"""Folders of timm written, opened and used, in a process that has timm: `python timm_folders.py FOLDER NAME…` writes a
JSON object a network. Run by test_timm.py."""

import json
import sys
from pathlib import Path

import torch

import packlight as pl
from packlight.sources.hugging_face.libraries import require_timm

# Network → what makes it small.
FAST = {"resnet10t": {}, "vit_tiny_patch16_224": {"depth": 1, "img_size": 64}}
NETWORKS = FAST | {
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
    "mixer_s32_224": {"img_size": 64},
}
CHANGES = {
    "unknown": {"architecture": "resnet10t; import os"},
    "source": {"architecture": "hf-hub:house/net"},
    "classes": {"model_args": {"num_classes": 7}},
    "huge": {"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 1 << 17, "num_heads": 1}},
    "deep": {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1 << 20}},
    "argument": {"model_args": {"no_such": 1}},
    "picture": {"pretrained_cfg": {"input_size": [3, 1 << 30, 8]}},
    "number": {"pretrained_cfg": {"input_size": 7}},
    "list": {"model_args": [1]},
}


def saved(folder: Path, name: str) -> torch.nn.Module:
    timm = require_timm()
    torch.manual_seed(0)
    options = NETWORKS[name]
    module = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    torch.nn.init.normal_(module.get_classifier().weight, std=0.1)  # which some networks start at zero
    timm.models.save_for_hf(module, folder, model_args=options)
    config = json.loads((folder / "config.json").read_text())
    side = options.get("img_size", 96)
    config["pretrained_cfg"] |= {"input_size": [3, side, side]}
    (folder / "config.json").write_text(json.dumps(config))
    return module


def opened(folder: Path, name: str) -> dict[str, object]:
    """The largest difference to the module, and the share of parameters left after pruning to a half."""
    module, model = saved(folder, name), pl.load(folder)
    x = torch.randn(3, *model.inputs[0].shape[1:])
    with torch.no_grad():
        difference = float((module(x) - model(x)).abs().max())
    small = pl.prune(model, keep=0.5)
    pl.convert(small, folder / "net.onnx")
    left = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    return {"name": name, "difference": difference, "left": left, "files": sorted(model.files)}


def refused(folder: Path, change: str) -> dict[str, object]:
    saved(folder, "resnet10t")
    config = json.loads((folder / "config.json").read_text()) | CHANGES[change]
    (folder / "config.json").write_text(json.dumps(config))
    try:
        pl.load(folder)
    except pl.PacklightError as error:
        return {"name": change, "said": str(error)}
    return {"name": change, "said": "nothing"}


if __name__ == "__main__":
    for asked in sys.argv[2:]:
        to = Path(sys.argv[1]) / asked
        sys.stdout.write(json.dumps((refused if asked in CHANGES else opened)(to, asked)) + "\n")
