"""ExecuTorch with its XNNPACK backend: float, and int8 by torchao's PT2E quantization with XNNPACKQuantizer.

int8: activations signed, weights symmetric, one scale an output channel, calibrated on the samples; batch norms are
folded before. A .pte is made for one batch size (with a dynamic one, ResNet-20 failed at any other than the
example's): the deployed file serves single samples, a second one batches of 16. Operators that XNNPACK does not take
run in ExecuTorch's portable kernels; "options" names them.
https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from serving import SMALL, THREADS, Array, Form, Inputs, Job, Run, serve
from weights import network

SAMPLES = 256  # a multiple of LARGER
LARGER = 16  # batch size of the second file


def floating(job: Job) -> dict[str, Any]:
    return lowered(job, int8=False)


def int8(job: Job) -> dict[str, Any]:
    return lowered(job, int8=True) | {"per_channel": True, "types": "s8s8", "samples": SAMPLES}


def lowered(job: Job, int8: bool) -> dict[str, Any]:
    """Write model.pte for single samples, and its twin for larger batches beside the folder."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    import packlight

    samples = torch.from_numpy(job.samples(SAMPLES)[0])
    graph = packlight.fold(network(job)).graph_module
    called: set[str] = set()
    for batch in (1, LARGER):
        example = (samples[:batch],)
        module = torch.export.export(graph, example).module()
        if int8:
            module = quantized(module, samples, batch)
        exported = torch.export.export(module, example)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        called |= {n.target.__name__ for n in program.exported_program().graph.nodes if n.op == "call_function"}
        where(job, batch).write_bytes(program.to_executorch().buffer)
    return {"operators outside XNNPACK": sorted(called - {"executorch_call_delegate", "getitem"})}


def where(job: Job, batch: int) -> Path:
    return job.made / "model.pte" if batch == 1 else job.made.with_name(f"{job.made.name}-batch{batch}.pte")


def quantized(module: Any, samples: Any, batch: int) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    for part in samples.split(batch):
        prepared(part)
    return convert_pt2e(prepared)


def loaded(job: Job) -> Run:
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    torch.set_num_threads(THREADS)
    _unsafe_reset_threadpool(THREADS)

    @cache
    def method(batch: int) -> Any:
        return Runtime.get().load_program(where(job, batch)).load_method("forward")

    def run(inputs: Inputs) -> Array:
        (x,) = inputs
        whole = len(x) // LARGER * LARGER
        parts = [x[i : i + LARGER] for i in range(0, whole, LARGER)] + [x[i : i + 1] for i in range(whole, len(x))]
        found = [method(len(part)).execute([torch.from_numpy(part)])[0].numpy().copy() for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    return run


NETWORKS = (*SMALL, "mobilenet_v2")
FORMS = [
    Form("float", floating, loaded, NETWORKS, quick=False),
    Form("int8", int8, loaded, NETWORKS, quick=False),
]

if __name__ == "__main__":
    backend = "executorch.backends.xnnpack.partition.xnnpack_partitioner"
    serve(FORMS, {"executorch": backend, "torchao": "torchao.quantization.pt2e.quantize_pt2e", "torch": "torch"})
