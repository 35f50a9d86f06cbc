"""Runs under the emulated Python: an .onnx file or an ncnn .param on the samples of a .npz, outputs to another.

python on_arm64.py FILE INPUTS.npz OUTPUT.npy [half]

half: ncnn in 16-bit arithmetic, which is its default on processors that have it.
"""

import sys

import numpy as np


def by_onnxruntime(path: str, inputs: list[np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    rows = [session.run(None, {n: x[i : i + 1] for n, x in zip(names, inputs, strict=True)})[0]
            for i in range(len(inputs[0]))]  # fmt: skip
    return np.concatenate(rows)


def by_ncnn(path: str, inputs: list[np.ndarray], half: bool) -> np.ndarray:
    import ncnn

    net = ncnn.Net()
    if not half:
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(path) == 0
    assert net.load_model(path.removesuffix(".param") + ".bin") == 0
    rows = []
    for i in range(len(inputs[0])):
        with net.create_extractor() as extractor:
            for j, x in enumerate(inputs):
                extractor.input(f"in{j}", ncnn.Mat(x[i]).clone())
            _, found = extractor.extract("out0")
            rows.append(np.array(found).reshape(1, -1))
    return np.concatenate(rows)


file, given, output, *rest = sys.argv[1:]
with np.load(given) as arrays:
    inputs = [arrays[name] for name in arrays]
found = by_onnxruntime(file, inputs) if file.endswith(".onnx") else by_ncnn(file, inputs, "half" in rest)
np.save(output, found)
