"""Train a reference network and write it with its measured scores: NAME.plm and NAME.json.

    python scripts/train_reference.py resnet20 [--seed 0] [--epochs 30] [--threads 1]
    python scripts/train_reference.py --list

Resumable: killed and started again, it goes on from `.data/NAME.ckpt`. Every choice in the recipes was made on
validation data; the test split is read once, at the end. Networks of Fashion-MNIST are committed; those of other
data, whose licences differ, are written to `.data/networks/` and stay there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import packlight as pl
from packlight import networks
from packlight.measure.quality import evaluate
from packlight.model import statistics
from packlight.task import Task
from packlight.task.readers import sentence_encoder_files
from packlight.train import Engine, Fit, Progress, fit

ROOT = Path(__file__).parent.parent
COMMITTED, DEMO, CACHED = ROOT / "benchmarks/networks", ROOT / "packlight/data", ROOT / ".data/networks"

CLASSIC = Fit(epochs=20, learning_rate=0.05)
RESIDUAL = Fit(epochs=30, learning_rate=0.1, engine=Engine("bf16", channels_last=True))
SEPARABLE = Fit(epochs=14, learning_rate=0.1, engine=Engine(channels_last=True))
SCENES = Fit(epochs=20, batch=32, learning_rate=3e-3, optimizer="adamw", weight_decay=0.01)
SPEECH = Fit(epochs=30, batch=32, learning_rate=2e-3, optimizer="adamw", weight_decay=0.05)
TEXT = Fit(epochs=40, batch=32, learning_rate=2e-3, optimizer="adamw", weight_decay=0.05)
TUNED = Fit(epochs=2, batch=16, learning_rate=5e-5, optimizer="adamw", weight_decay=0.01)


@dataclass(frozen=True)
class Recipe:
    """make(): the network, its fresh weights from torch's seed. out: the folder. stem: of the files' names, where it
    is not the recipe's. augment: whether training uses the task's augmentation."""

    make: Callable[[], nn.Module]
    task: str
    how: Fit
    out: Path = CACHED
    stem: str = ""
    augment: bool = True


def pretrained(classes: int) -> nn.Module:
    """The sentence encoder with its published weights and a fresh head."""
    return networks.sentence_classifier(classes, sentence_encoder_files()["model.safetensors"])


RECIPES = {
    "resnet20": Recipe(networks.resnet20, "fashion-mnist", RESIDUAL, DEMO, "resnet20_fashion_mnist"),
    "lenet300": Recipe(networks.lenet300, "fashion-mnist", CLASSIC, COMMITTED, augment=False),
    "lenet5": Recipe(networks.lenet5, "fashion-mnist", CLASSIC, COMMITTED),
    "mobilenet_v2_small": Recipe(networks.mobilenet_v2_small, "fashion-mnist", SEPARABLE, COMMITTED),
    "unet": Recipe(networks.unet, "fashion-scenes", SCENES, COMMITTED),
    "ds_cnn": Recipe(networks.ds_cnn, "mandarin-tones", SPEECH),
    "conformer": Recipe(networks.conformer, "mandarin-tones", SPEECH),
    "lstm_bbc": Recipe(lambda: networks.lstm_classifier(5), "bbc-news", TEXT),
    "lstm_spam": Recipe(lambda: networks.lstm_classifier(2), "spam-assassin", TEXT),
    "sentence_bbc": Recipe(lambda: pretrained(5), "bbc-news", TUNED),
    "sentence_spam": Recipe(lambda: pretrained(2), "spam-assassin", TUNED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=RECIPES)
    parser.add_argument("--list", action="store_true", help="the recipes, one a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.list or options.name is None:
        for name, recipe in RECIPES.items():
            print(f"{name}: {recipe.task}, {recipe.how}")
        return
    torch.set_num_threads(options.threads)
    train(options.name, RECIPES[options.name], options.seed, options.epochs)


def train(name: str, recipe: Recipe, seed: int, epochs: float | None) -> None:
    """One network from its seed to its files."""
    how = replace(recipe.how, seed=seed, epochs=epochs or recipe.how.epochs)
    task = Task.named(recipe.task)
    if not recipe.augment:
        task = replace(task, augment=None)
    torch.manual_seed(seed)
    example = tuple(torch.from_numpy(x) for x in next(task.data("calibration").batches(2)).inputs)
    model = pl.load(recipe.make(), example, name=name)
    began = time.monotonic()
    CACHED.mkdir(parents=True, exist_ok=True)
    trained = fit(model, task, how, checkpoint=CACHED.parent / f"{name}.ckpt", on_step=report)
    recipe.out.mkdir(parents=True, exist_ok=True)
    stem = recipe.stem or name
    trained.save(recipe.out / f"{stem}.plm")
    found = statistics(trained)
    facts: dict[str, Any] = {
        "network": name, "task": recipe.task, "augmented": bool(task.augment), "seed": seed, "recipe": str(how),
        "params": found.params, "macs": found.macs, "minutes": round((time.monotonic() - began) / 60, 1), "scores": {},
    }  # fmt: skip
    for split in ("validation", "test"):
        score = evaluate(trained, task, split).measurement
        facts["scores"][split] = {
            task.measure_with.name: score.value, "low": score.low, "high": score.high, "n": score.n
        }  # fmt: skip
        print(f"{split}: {score.value:.2f} % [{score.low:.2f}, {score.high:.2f}] of {score.n:,}")
    (recipe.out / f"{stem}.json").write_text(json.dumps(facts, indent=2) + "\n")


def report(p: Progress) -> None:
    if p.step % 200 == 0 or p.step == p.steps:
        left = (p.steps - p.step) / p.rate / 60
        print(f"step {p.step}/{p.steps}  loss {p.loss:.3f}  lr {p.learning_rate:.4f}  {left:.0f} min left", flush=True)


if __name__ == "__main__":
    main()
