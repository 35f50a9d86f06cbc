"""What the spine promises, measured: int8 files against the fair float file and ONNX Runtime's own quantizer.

    python benchmarks/spine.py [--quick] [--only resnet20]

Needs `packlight[onnxruntime]` and, for ResNet-20's accuracy, the full Fashion-MNIST (`make data`). One thread,
batch 1 and 16; all files of a network are timed in one run, in alternating rounds. ResNet-50 and MobileNetV2
have random weights (batch-norm statistics from noise), so only their latency and bytes mean anything. Writes
benchmarks/results/spine.json and spine.md, each network as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import packlight as pl
from packlight.files import sha256
from packlight.measure.intervals import share
from packlight.measure.latency import compare
from packlight.measure.machine import describe
from packlight.measure.quality import evaluate, evaluate_artifact, workload_inputs
from packlight.networks import mobilenet_v2, resnet50
from packlight.search.candidates import thin_stems
from packlight.targets import Artifact, get
from packlight.task import Task
from packlight.task.metrics import agreement_rows

HERE = Path(__file__).parent
BATCHES = (1, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the demo's test images")
    parser.add_argument("--only", help="one network's name")
    options = parser.parse_args()
    kept = HERE / "results" / "spine.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and not options.quick else {}
    for name, model, task, trained in networks(options.quick):
        if options.only in (None, name):
            rows = measure(name, model, task, trained, rounds=5 if options.quick else 31)
            found[name] = {"machine": describe(), "rows": rows}
            print(render(found[name]["rows"]), flush=True)
            if not options.quick:
                kept.write_text(json.dumps(found, indent=1) + "\n")
    if not options.quick:
        everything = [row for part in found.values() for row in part["rows"]]
        kept.with_suffix(".md").write_text(render(everything) + "\n")


def networks(quick: bool) -> Iterator[tuple[str, pl.Model, Task, bool]]:
    """Name, Model, Task, and whether its accuracy means anything."""
    task = Task.named("fashion-mnist-demo" if quick else "fashion-mnist")
    yield "resnet20", pl.load(HERE.parent / "packlight/data/resnet20_fashion_mnist.plm"), task, True
    for name, make in (("resnet50", resnet50), ("mobilenet_v2", mobilenet_v2)):
        yield name, *untrained(make(), name), False


def untrained(module: nn.Module, name: str) -> tuple[pl.Model, Task]:
    """A network with random weights whose batch norms have seen noise, and a task of noise."""
    torch.manual_seed(0)
    images = torch.randn(32, 3, 224, 224)
    module.train()
    with torch.no_grad():
        for part in images.split(8):
            module(part)
    labels = np.zeros(32, np.int64)
    return pl.load(module, images[:2], name=name), Task(
        name, calibration=images[:16].numpy(), test=(images.numpy(), labels)
    )


def measure(name: str, model: pl.Model, task: Task, trained: bool, rounds: int) -> list[dict[str, Any]]:
    """A row a form: bytes, latency at each batch with the ratio to float, and for trained networks quality."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        ours = {"packlight int8": pl.quantize(model, task)}
        if stems := thin_stems(model):
            ours["packlight int8, float stem"] = pl.quantize(model, task, exclude=stems)
        forms = {"float32": pl.export(model, Path(folder) / "float32.onnx")}
        forms |= {form: pl.export(made, Path(folder) / f"packlight-{len(form)}.onnx") for form, made in ours.items()}
        forms |= ort_quantized(forms["float32"], task, Path(folder))
        timings = {b: compare(list(forms.values()), workload_inputs(task, "test", b), rounds=rounds) for b in BATCHES}
        rivals = [f for f in forms if f.startswith("ONNX Runtime")]
        before = evaluate_artifact(forms["float32"], task, "test") if trained else None
        for i, (form, artifact) in enumerate(forms.items()):
            row: dict[str, Any] = {"network": name, "form": form, "bytes": artifact.bytes,
                                   "smaller": forms["float32"].bytes / artifact.bytes}  # fmt: skip
            for batch, times in timings.items():
                row[f"latency_{batch}"] = times[i].latency.as_json()
                row[f"ratio_{batch}"] = times[i].ratio.as_json()
            if before is not None:
                scores = evaluate_artifact(artifact, task, "test")
                row["quality"], row["drop"] = scores.measurement.as_json(), scores.drop_from(before).as_json()
                if form in ours:
                    simulated = evaluate(ours[form], task, "test")
                    row["agrees_with_model"] = share(agreement_rows(scores.decided, simulated.decided)).as_json()
            rows.append(row)
        for batch, times in timings.items():
            best = min((list(forms).index(r) for r in rivals), key=lambda i: times[i].ratio.value)
            for mine in range(1, 1 + len(ours)):
                rows[mine][f"time_against_best_rival_{batch}"] = times[mine].ratio_to(times[best]).as_json()
    return rows


def ort_quantized(floating: Artifact, task: Task, folder: Path) -> dict[str, Artifact]:
    """The int8 forms of ONNX Runtime's own static quantizer, on the same calibration samples."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = folder / "prepared.onnx"
    quant_pre_process(str(floating.path), str(source), skip_symbolic_shape=True)
    name = floating.manifest["inputs"][0]["name"]
    samples = task.data("calibration").take(256)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: b.inputs[0]} for b in samples.batches(16)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    made = {}
    for label, form, activation, per_channel in (
        ("QDQ u8s8", QuantFormat.QDQ, QuantType.QUInt8, True),
        ("QDQ u8s8 per tensor", QuantFormat.QDQ, QuantType.QUInt8, False),
        ("QDQ s8s8", QuantFormat.QDQ, QuantType.QInt8, True),
        ("QOperator u8s8", QuantFormat.QOperator, QuantType.QUInt8, True),
    ):
        path = folder / f"ort-{len(made)}.onnx"
        quantize_static(
            str(source), str(path), Reader(), quant_format=form, per_channel=per_channel,
            activation_type=activation, weight_type=QuantType.QInt8,
        )  # fmt: skip
        made[f"ONNX Runtime {label}"] = foreign(path, floating)
    return made


def foreign(path: Path, like: Artifact) -> Artifact:
    """A file that packlight did not write, as an Artifact with the same inputs and outputs."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}}
    return Artifact(path, get("onnxruntime"), {**like.manifest, "files": files})


def render(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| network | form | kB | times smaller | ms, batch 1 | times faster | ms, batch 16 | times faster "
        "| accuracy % | drop, points [95 %] |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [row["network"], row["form"], f"{row['bytes'] / 1e3:,.1f}", f"{row['smaller']:.2f}"]
        for batch in BATCHES:
            cells.append(f"{row[f'latency_{batch}']['value']:.3f}")
            cells.append(speed(row[f"ratio_{batch}"]))
        if "quality" in row:
            drop = row["drop"]
            cells.append(f"{row['quality']['value']:.2f}")
            cells.append(f"{drop['value']:+.2f} [{drop['low']:+.2f}, {drop['high']:+.2f}]")
        else:
            cells += ["–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for row in rows:
        if "time_against_best_rival_1" in row:
            agrees = row.get("agrees_with_model")
            told = f"; file and Model agree on {agrees['value']:.2f} % of {agrees['n']:,} test images" if agrees else ""
            rates = [speed(row[f"time_against_best_rival_{b}"]) for b in BATCHES]
            lines.append(f"* {row['network']}, {row['form']}: {rates[0]} (batch 1) and {rates[1]} (batch 16) times the "
                         f"speed of the fastest int8 form of ONNX Runtime's own quantizer{told}.")  # fmt: skip
    return "\n".join(lines)


def speed(ratio: dict[str, Any]) -> str:
    """A ratio of times as how many times faster, with its interval."""
    return f"{1 / ratio['value']:.2f} [{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]"


if __name__ == "__main__":
    main()
