"""OpenVINO, float and with NNCF's post-training quantization.

nncf.quantize with its defaults, and in a second form with preset MIXED, fast_bias_correction off and all calibration
samples in its statistics. OpenVINO compiles for the batch size that it is asked for, as one who deploys it would.
Deployed: the .xml and the .bin, weights float32 or int8 (OpenVINO's compression of floats to float16 is off).
https://docs.openvino.ai/nncf
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from serving import THREADS, Array, Form, Inputs, Job, Run, rows, serve

SAMPLES = 256


def floating(job: Job, halve: bool = False) -> dict[str, Any]:
    import openvino

    openvino.save_model(openvino.convert_model(job.folder / "float.onnx"), job.made / "model.xml", halve)
    return {"weights": "float16" if halve else "float32"}


def quantized(job: Job, **options: Any) -> dict[str, Any]:
    import nncf
    import openvino

    samples = job.samples(SAMPLES)
    dataset = nncf.Dataset([rows(samples, slice(i, i + 1)) for i in range(len(samples[0]))])
    chosen = options | ({"preset": nncf.QuantizationPreset(options["preset"])} if "preset" in options else {})
    model = nncf.quantize(
        openvino.convert_model(job.folder / "float.onnx"), dataset, subset_size=len(samples[0]), **chosen
    )
    openvino.save_model(model, job.made / "model.xml", compress_to_fp16=False)
    return options | {"samples": len(samples[0])}


def compiled(job: Job) -> Run:
    import openvino

    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}

    @cache
    def request(batch: int) -> Any:
        model = core.read_model(job.made / "model.xml")
        model.reshape({i: [batch, *x.partial_shape[1:]] for i, x in enumerate(model.inputs)})
        return core.compile_model(model, "CPU", options).create_infer_request()

    def run(inputs: Inputs) -> Array:
        return request(len(inputs[0])).infer(list(inputs), share_inputs=True)[0]

    return run


FORMS = [
    Form("float", floating, compiled),
    Form("float16-stored", partial(floating, halve=True), compiled, quick=False),
    Form("int8", quantized, compiled),
    Form("int8-mixed", partial(quantized, preset="mixed", fast_bias_correction=False), compiled, quick=False),
]

if __name__ == "__main__":
    serve(FORMS, {"openvino": "openvino", "nncf": "nncf"})
