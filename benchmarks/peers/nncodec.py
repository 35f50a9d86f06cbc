"""NNCodec (Fraunhofer HHI), the reference software of Neural Network Coding, ISO/IEC 15938-17; nothing is trained.

"default" is the library's own setting. "best" sweeps qp from coarse to fine with and without dependent quantization
and tensor-wise step sizes (opt_qp), batch norms folded into its local scales (bnf), then tries finer choices for
biases and its inference-based step sizes (ioq) near the winner; validation accuracy decides.
https://github.com/d-becking/nncodec2, Becking et al. 2023 (ICML workshop on neural compression).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from serving import SMALL, Array, Form, Job, Run, serve
from weights import Validation, module, network, running, smallest_allowed

QPS, QUICK_QPS = range(-12, -39, -1), range(-14, -39, -2)  # step: 2 ** (qp / 4)
IOQ_SAMPLES, IOQ_BUDGET_S = 1000, 300.0
BIAS_QP = -40


def codec() -> Any:
    """The codec without the data sets and examples whose libraries it imports at start and never needs here."""
    absent = "cv2 flwr h5py pandas sentencepiece torchvision torchvision.datasets torchvision.transforms wandb".split()
    stubs = {name: MagicMock() for name in absent if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        from nncodec import nnc
    finally:
        for name in stubs:
            del sys.modules[name]
    return nnc


def executer(validation: Validation) -> Any:
    """What NNCodec asks for accuracies when it chooses step sizes by inference."""
    from nncodec.nnc_core.nnr_model import ModelExecute

    class Executer(ModelExecute):
        def has_eval(self) -> bool:
            return True

        def has_test(self) -> bool:
            return False

        has_tune_ft = has_tune_lsa = has_test

        def eval_model(self, parameters: dict[str, Array], verbose: bool = False) -> dict[str, float]:
            return {"accuracy": validation.accuracy(parameters, IOQ_SAMPLES)}

    return Executer()


class Coder:
    """Encodes a job's network and decodes what it wrote."""

    def __init__(self, job: Job, validation: Validation):
        self.job, self.nnc = job, codec()
        self.module, self.executer = module(job), executer(validation)
        self.normed = any(name.endswith("running_var") for name, _ in self.module.named_buffers())

    def __call__(self, setting: dict[str, Any]) -> tuple[bytes, dict[str, Array]]:
        path = self.job.folder / "nncodec-scratch.nnc"
        bitstream, _ = self.nnc.compress_model(
            self.module, model_executer=self.executer, bitstream_path=str(path), return_bitstream=True,
            return_model_data=True, verbose=False, **setting,
        )  # fmt: skip
        path.unlink(missing_ok=True)
        return bytes(bitstream), decoded(self.nnc, bitstream)


def decoded(nnc: Any, bitstream: bytearray) -> dict[str, Array]:
    """Tensors by the network's names; a folded batch norm gets statistics that leave it only its shift."""
    found = nnc.decompress(bitstream, reconstruct_lsa=True, verbose=False)
    values = {name: array for name, array in found.items() if not name.endswith(".weight.bias")}
    for name, shift in found.items():
        if name.endswith(".weight.bias"):
            norm = next_layer(name.removesuffix(".weight.bias"))
            zeros = np.zeros_like(shift)
            values |= {f"{norm}.weight": zeros + 1, f"{norm}.bias": shift, f"{norm}.running_mean": zeros,
                       f"{norm}.running_var": zeros + (1 - 1e-5)}  # fmt: skip
    return values


def next_layer(name: str) -> str:
    """In packlight.networks a batch norm follows its convolution in the same Sequential."""
    owner, _, index = name.rpartition(".")
    return f"{owner}.{int(index) + 1}"


def default(job: Job) -> dict[str, Any]:
    setting = {"qp": -32, "row_skipping": True}
    (job.made / "network.nnc").write_bytes(Coder(job, Validation(job, network(job)))(setting)[0])
    return setting


def best(job: Job) -> dict[str, Any]:
    validation = Validation(job, network(job))
    coder = Coder(job, validation)
    found = smallest_allowed(sweeps(coder, job.quick), coder, validation)
    if not job.quick:
        found = smallest_allowed(refinements(found[1]["chosen"]), coder, validation, found)
    (job.made / "network.nnc").write_bytes(found[0])
    return found[1]


def sweeps(coder: Coder, quick: bool) -> Iterator[Iterator[dict[str, Any]]]:
    common = {"bnf": coder.normed, "nonweight_qp": BIAS_QP, "row_skipping": True}
    for opt_qp in (False, True):
        for use_dq in (True,) if quick else (True, False):
            yield (common | {"qp": qp, "use_dq": use_dq, "opt_qp": opt_qp} for qp in (QUICK_QPS if quick else QPS))


def refinements(chosen: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Coarser biases, and step sizes by inference, around a setting; no new one after some time."""
    began = time.monotonic()
    for change in ({"nonweight_qp": -32}, {"ioq": True}, {"ioq": True, "nonweight_qp": -32},
                   {"ioq": True, "qp": chosen["qp"] + 1}, {"ioq": True, "qp": chosen["qp"] + 2}):  # fmt: skip
        if time.monotonic() - began < IOQ_BUDGET_S:
            yield [chosen | change]


def restored(job: Job) -> Run:
    return running(network(job), decoded(codec(), bytearray((job.made / "network.nnc").read_bytes())))


FORMS = [
    Form("best", best, restored, SMALL, timed=False),
    Form("default", default, restored, SMALL, quick=False, timed=False),
]

if __name__ == "__main__":
    serve(FORMS, {"nncodec": "torch"})
