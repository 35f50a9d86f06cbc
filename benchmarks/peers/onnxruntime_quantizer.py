"""ONNX Runtime's own quantizers: static int8 in four layouts, and dynamic int8.

Static: quant_pre_process, then quantize_static with int8 weights and uint8 activations (int8 in s8s8, which its x86
kernels run slower), min-max ranges (the quantizer's default) of the calibration samples. Dynamic: quantize_dynamic,
weights int8, activations measured at run time; ONNX Runtime has no fast kernel for its ConvInteger nodes, so
convolutions come out many times slower than float.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from serving import THREADS, Array, Form, Inputs, Job, Run, rows, serve

SAMPLES, BATCH = 256, 16


def static(job: Job, layout: str, per_channel: bool = True, signed: bool = False) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    samples = job.samples(SAMPLES)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            names = input_names(job.folder / "float.onnx")
            parts = (rows(samples, slice(i, i + BATCH)) for i in range(0, len(samples[0]), BATCH))
            self.batches = (dict(zip(names, part, strict=True)) for part in parts)

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            prepared(job, folder), str(job.made / "model.onnx"), Reader(), quant_format=QuantFormat[layout],
            per_channel=per_channel, activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    types = "s8s8" if signed else "u8s8"
    return {"format": layout, "per_channel": per_channel, "types": types, "samples": len(samples[0])}


def dynamic(job: Job) -> dict[str, Any]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(
            prepared(job, folder), str(job.made / "model.onnx"), per_channel=True, weight_type=QuantType.QInt8
        )
    return {"format": "dynamic", "per_channel": True, "weights": "int8"}


def prepared(job: Job, folder: str) -> str:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = str(Path(folder) / "prepared.onnx")
    quant_pre_process(str(job.folder / "float.onnx"), path, skip_symbolic_shape=True)
    return path


def input_names(path: Path) -> list[str]:
    import onnx

    return [x.name for x in onnx.load(str(path), load_external_data=False).graph.input]


def session(job: Job) -> Run:
    """The one .onnx file of a folder in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(str(job.made / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in opened.get_inputs()]

    def run(inputs: Inputs) -> Array:
        return opened.run(None, dict(zip(names, inputs, strict=True)))[0]

    return run


FORMS = [
    Form("static-qdq", partial(static, layout="QDQ"), session),
    Form("static-qdq-per-tensor", partial(static, layout="QDQ", per_channel=False), session, quick=False),
    Form("static-qdq-s8s8", partial(static, layout="QDQ", signed=True), session, quick=False),
    Form("static-qoperator", partial(static, layout="QOperator"), session, quick=False),
    Form("dynamic", dynamic, session),
]

if __name__ == "__main__":
    serve(FORMS, {"onnxruntime": "onnxruntime.quantization"})
