"""LiteRT with ai-edge-quantizer's static int8, of the float file that packlight writes for LiteRT.

Its recipe static_wi8_ai8 as it is: weights with a scale an output channel, activations min-max over the calibration
samples, every operator that it supports; inputs and outputs stay float, as in the file beside it. It lives beside
LiteRT's converter, in packlight's own environment for that (`packlight targets install litert`), where this file calls
itself.
https://github.com/google-ai-edge/ai-edge-quantizer
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from serving import THREADS, Array, Form, Inputs, Job, Run, serve
from weights import network

SAMPLES = 256


def int8(job: Job) -> dict[str, Any]:
    import packlight
    from packlight.targets import get

    whole = job.made.with_name(f"{job.made.name}-float")
    made = packlight.export(network(job), whole, target="litert", form="float32")
    samples = whole / "samples.npz"
    np.savez(samples, *job.samples(SAMPLES))
    command = [get("litert").python, __file__, "--quantize", made.path, samples, job.made / "model.tflite"]
    subprocess.run([str(word) for word in command], check=True)
    return {"per_channel": True, "types": "s8s8", "samples": SAMPLES}


def quantize(whole: Path, samples: Path, out: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    ((key, signature),) = Interpreter(str(whole)).get_signature_list().items()
    with np.load(samples) as stored:
        given = [stored[name] for name in stored.files]
    rows = [{n: x[i : i + 1] for n, x in zip(signature["inputs"], given, strict=True)} for i in range(len(given[0]))]
    made = quantizer.Quantizer(str(whole))
    made.load_quantization_recipe(recipe.static_wi8_ai8())
    for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        made.update_quantization_recipe(".*", edge, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    made.quantize(made.calibrate({key: rows}, num_threads=THREADS)).export_model(str(out))


def loaded(job: Job) -> Run:
    from packlight.files import sha256
    from packlight.targets import Artifact
    from packlight.targets.artifact import Runner

    whole = Artifact.open(job.made.with_name(f"{job.made.name}-float"))
    file = job.made / "model.tflite"
    facts = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}}
    runner = Runner(Artifact(file, whole.target, {**whole.manifest, "files": facts}), THREADS)

    def run(inputs: Inputs) -> Array:
        (x,) = inputs
        return np.concatenate([runner(x[i : i + 1])[0] for i in range(len(x))])

    return run


FORMS = [Form("int8", int8, loaded, networks=(), quick=False)]  # of the study target_quantizers alone

if __name__ == "__main__":
    if sys.argv[1:2] == ["--quantize"]:
        quantize(*map(Path, sys.argv[2:]))
    else:
        serve(FORMS, {"torch": "torch"})
