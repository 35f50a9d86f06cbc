"""Train the demo's ResNet-20 on Fashion-MNIST and write it, with its measured test accuracy, into the package.

    python scripts/train_resnet20.py [--epochs 30] [--out packlight/data]

Resumable: killed and started again, it goes on from `.data/resnet20.ckpt`. Choices were made on validation
data; the 10,000 test images are read once, at the end.
"""

import argparse
import json
from pathlib import Path

import torch

import packlight as pl
from packlight.measure.quality import evaluate
from packlight.networks import resnet20
from packlight.task import Task
from packlight.train import Fit, Progress, fit

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=float, default=30)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("packlight/data"))
options = parser.parse_args()


def report(p: Progress) -> None:
    if p.step % 200 == 0:
        left = (p.steps - p.step) / p.rate
        print(
            f"step {p.step}/{p.steps}  loss {p.loss:.3f}  lr {p.learning_rate:.4f}  {left / 60:.0f} min left",
            flush=True,
        )


torch.manual_seed(options.seed)
task = Task.named("fashion-mnist")
model = pl.load(resnet20(), torch.zeros(2, 1, 28, 28), name="resnet20")
recipe = Fit(epochs=options.epochs, learning_rate=0.1, seed=options.seed, precision="bf16", channels_last=True)
Path(".data").mkdir(exist_ok=True)
trained = fit(model, task, recipe, checkpoint=".data/resnet20.ckpt", on_step=report)
trained.save(options.out / "resnet20_fashion_mnist.plm")
scores = {}
for split in ("validation", "test"):
    found = evaluate(trained, task, split).measurement
    scores[split] = {"accuracy": found.value, "low": found.low, "high": found.high, "n": found.n}
    print(f"{split}: {found.value:.2f} % [{found.low:.2f}, {found.high:.2f}] of {found.n}")
(options.out / "resnet20_fashion_mnist.json").write_text(
    json.dumps({"network": "resnet20", "scores": scores}, indent=2) + "\n"
)
