"""ONNX Runtime's static quantizer with int8 activations, which its x86 kernels run slower than uint8 ones."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peers.serving import Form, Job, serve
from benchmarks.runners.packlight_forms import session

SAMPLES, BATCH = 256, 16


def static(job: Job) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, x = str(job.folder / "float.onnx"), job.data("calibration")[0][:SAMPLES]
    name = onnx.load(source, load_external_data=False).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: x[i : i + BATCH]} for i in range(0, len(x), BATCH)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with TemporaryDirectory() as folder:
        quant_pre_process(source, f"{folder}/prepared.onnx", skip_symbolic_shape=True)
        quantize_static(
            f"{folder}/prepared.onnx", str(job.made / "model.onnx"), Reader(), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return {"format": "QDQ", "per_channel": True, "types": "s8s8", "samples": len(x)}


if __name__ == "__main__":
    serve([Form("static-qdq", static, session, quick=False)], {"onnxruntime": "onnxruntime"})
