"""Torch-Pruning: whole channels removed by group importance, one shot or with a short fine-tune, in ONNX Runtime.

MetaPruner, ranked over the whole network, in steps until the share of multiply-accumulates that is asked for is
reached; importance is GroupMagnitudeImportance (L2) or GroupTaylorImportance with gradients of the calibration samples.
Fine-tune: packlight.finetune, two epochs at learning rate 0.02, the same for every form. float32 in float.onnx's terms.
https://github.com/VainF/Torch-Pruning, Fang et al. 2023 (DepGraph, arXiv 2301.12900)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from onnxruntime_quantizer import session
from serving import SMALL, THREADS, Form, Job, serve
from weights import module

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 100
EPOCHS, LEARNING_RATE = 2.0, 0.02
SAMPLES = 256


def pruned(job: Job, importance: str, macs: float, finetune: bool) -> dict[str, Any]:
    """Write model.onnx with at most `macs` of the original multiply-accumulates."""
    import torch
    import torch_pruning as tp

    import packlight
    from packlight.task import Task

    torch.set_num_threads(THREADS)
    net = module(job)
    example = torch.zeros(1, *job.spec["input_shape"])
    before = tp.utils.count_ops_and_params(net, example)
    prune(net, example, importance, macs, job)
    after = tp.utils.count_ops_and_params(net, example)
    model = packlight.load(net.eval(), torch.zeros(2, *job.spec["input_shape"]), name=job.spec["network"])
    if finetune:
        model = packlight.finetune(model, Task.named(job.spec["task"]), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    exported = packlight.export(model, job.folder / f"{job.made.name}.onnx")
    exported.path.replace(job.made / "model.onnx")
    names = ("macs_before", "params_before", "macs_after", "params_after")
    return dict(zip(names, map(int, (*before, *after)), strict=True)) | {
        "importance": importance,
        "epochs": EPOCHS if finetune else 0,
    }


def prune(net: nn.Module, example: Tensor, importance: str, macs: float, job: Job) -> None:
    """Remove channels of `net` in place; the classes' own layer stays whole."""
    import torch_pruning as tp

    kinds = {"l2": tp.importance.GroupMagnitudeImportance(p=2), "taylor": tp.importance.GroupTaylorImportance()}
    pruner = tp.pruner.MetaPruner(
        net, example, importance=kinds[importance], global_pruning=True, pruning_ratio=0.98, max_pruning_ratio=0.9,
        iterative_steps=STEPS, ignored_layers=[net.head],
    )  # fmt: skip
    wanted = macs * tp.utils.count_ops_and_params(net, example)[0]
    while tp.utils.count_ops_and_params(net, example)[0] > wanted:
        if pruner.current_step >= STEPS:
            raise ValueError(f"pruning ended before {macs:.0%} of the multiply-accumulates were left")
        if importance == "taylor":
            gradients(net, job)
        pruner.step()


def gradients(net: nn.Module, job: Job) -> None:
    """Of the task's loss over the calibration samples, in eval mode, so that batch norms keep their statistics."""
    import torch
    from torch.nn.functional import cross_entropy

    (x,), y = job.data("calibration")
    x, y = torch.from_numpy(x[:SAMPLES]), torch.from_numpy(y[:SAMPLES])
    net.zero_grad()
    cross_entropy(net(x), y).backward()


WANTED = (  # importance, percent of the multiply-accumulates, fine-tuned
    ("l2", 90, False), ("l2", 50, False), ("taylor", 50, False),
    ("l2", 50, True), ("taylor", 75, True), ("taylor", 50, True), ("taylor", 25, True),
)  # fmt: skip
FORMS = [
    Form(f"{importance}-{percent}{'-tuned' if tuned else ''}",
         partial(pruned, importance=importance, macs=percent / 100, finetune=tuned),
         session, SMALL, quick=(importance, percent, tuned) == ("l2", 50, False))
    for importance, percent, tuned in WANTED
]  # fmt: skip

if __name__ == "__main__":
    serve(FORMS, {"torch_pruning": "torch_pruning", "onnxruntime": "onnxruntime"})
