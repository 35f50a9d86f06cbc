"""Networks written: for a runtime, for a download, from one format to another."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packlight import codec, targets
from packlight.api.given import TaskLike, task_of
from packlight.api.opening import Source, load
from packlight.errors import PacklightError
from packlight.measure.parity import check as check_parity
from packlight.measure.quality import workload_dims
from packlight.model import Model, patterns_of
from packlight.model.file import SUFFIX
from packlight.model.plausible import plausible_inputs
from packlight.model.shapes import with_shapes
from packlight.passes.codebooks import as_tables
from packlight.passes.fold import fold as fold_batch_norms
from packlight.search.packing import Allowed, Packed, pack_as_is, pack_at, pack_within
from packlight.search.packing_trained import deep_compression as classical
from packlight.search.packing_trained import pack_trained
from packlight.targets import Artifact
from packlight.targets.manifest import manifest_path
from packlight.train import Fit, Progress


def export(
    model: Model,
    path: str | Path,
    *,
    target: str | targets.Target = "onnxruntime",
    form: str | None = None,
    task: TaskLike | None = None,
    dims: Mapping[str, int] | None = None,
) -> Artifact:
    """Write a Model as a file for a runtime, with a manifest beside it; batch norms are folded first.

    path: the file, or with no suffix a folder, which also gets the smallest programs that run the file. form: how
    float weights are stored, one of the target's forms; default its first. task: whose preprocessing the manifest
    states, and whose workload's batch size a file has that takes one size only. dims: sizes of dynamic dimensions for
    such a file, e.g. {"batch": 8}.
    """
    chosen = task_of(task) if task is not None else None
    sizes = {**(workload_dims(model, chosen) if chosen else {}), **(dims or {})}
    facts = chosen.preprocessing if chosen else None
    folded, on = fold_batch_norms(model), targets.get(target)
    if Path(path).suffix:
        return targets.export(folded, path, on, form=form, dims=sizes, preprocessing=facts)
    name = re.sub(r"[^\w-]+", "_", model.name) or "model"
    with tempfile.TemporaryDirectory(prefix="packlight-") as folder:
        file = Path(folder) / f"{name}{on.suffix}"
        return targets.export(folded, file, on, form=form, dims=sizes, preprocessing=facts).save(
            path, companions=model.files
        )


def pack(
    model: Model,
    path: str | Path,
    task: TaskLike | None = None,
    *,
    budget: str | None = None,
    confidence: float = 0.5,
    price: float | None = None,
    mode: str = "small",
    exclude: str | Sequence[str] = (),
    samples: int = 2048,
    judged: int = 5000,
    finetune: Fit | None = None,
    teacher: Model | None = None,
    checkpoint: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """Write a Model as a `.plt` file, the smallest download of it; `unpack` or `load` gives back what was packed.

    budget: None keeps every bit of every tensor; "drop<=0.1points" or "drop<=0.5%" (of the quality) rounds weights
    and biases, batch norms folded, so that the file is as small as can be found whose drop on the task's validation
    data is within it. confidence: in [0.5, 1), that other data like those keep the budget: 0.5 takes drops as they
    are measured, 0.975 asks that the bad ends of their 95 % intervals keep it. price: instead of a budget, the loss
    that one bit is worth, > 0; needs no task, but then all weights count alike. mode: "small", or "fast" to open tens
    of times faster from a larger file. exclude: layer-name patterns that are not rounded. samples: of training (or
    else calibration) inputs that tell what each weight matters, labels are not looked at. judged: validation samples
    that each try is scored on.

    finetune: with a budget, weights are also pruned, and the rest is trained as this says, to answer as the network
    did; some six shares of the weights are tried, each a training of its own, and the smallest file of all is kept.
    Layers that are excluded are not pruned, but trained along. teacher: a better network of the same task, whose
    answers training follows instead of the network's own; the budget stays of the network. checkpoint: beginning of
    the names of files, one a share, that a killed training resumes from.
    """
    modes = {coder.name.lower(): coder for coder in codec.Coder}
    if mode not in modes:
        raise PacklightError(f"mode {mode!r}: choose {' or '.join(modes)}")
    path, coder, patterns = Path(path), modes[mode], patterns_of(exclude)
    if path.suffix != codec.SUFFIX:
        raise PacklightError(f"{path}: packed networks are {codec.SUFFIX} files")
    if budget is not None and (price is not None or task is None):
        raise PacklightError("a budget needs a task to measure the drop on, and takes the place of a price")
    if finetune is not None and budget is None:
        raise PacklightError("training prunes as far as a budget allows; give one, e.g. drop<=0.5points")
    if teacher is not None and finetune is None:
        raise PacklightError("a teacher is of training; give finetune, too")
    if confidence != 0.5 and budget is None:
        raise PacklightError("confidence is that of a budget; give one, e.g. drop<=0.5points")
    chosen = task_of(task) if task is not None else None
    if budget is not None and chosen is not None:
        allowed = Allowed(budget, confidence, samples, judged)
        if finetune is None:
            return pack_within(model, path, coder, chosen, allowed, patterns, on_stage)
        return pack_trained(
            model, path, coder, chosen, allowed, patterns, finetune, teacher,
            Path(checkpoint) if checkpoint else None, on_stage, on_step,
        )  # fmt: skip
    if price is not None:
        return pack_at(model, path, coder, chosen, price, patterns, samples)
    if patterns:
        raise PacklightError("nothing is rounded without a budget or a price, so there is nothing to exclude")
    return pack_as_is(model, path, coder)


def deep_compression(
    model: Model,
    path: str | Path,
    task: TaskLike,
    *,
    keep: float = 0.1,
    bits: int | None = None,
    exclude: str | Sequence[str] = (),
    finetune: Fit = Fit(epochs=10, learning_rate=0.05),
    sharing: Fit = Fit(epochs=2, learning_rate=0.001),
    checkpoint: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Progress], None] | None = None,
) -> Packed:
    """The classical recipe of Han et al. 2016 (arXiv 1510.00149) as a `.plt` file, to compare with: pruning by
    magnitude with retraining, weights shared by k-means with tables that are trained on, positions as gaps, and fixed
    codes.

    keep: in (0, 1), the share of all weights that stays. bits: 1 to 8, of the tables; None: 8 of convolutions and 5 of
    other layers, as in section 5 there. exclude: layer-name patterns that are neither pruned nor shared. finetune,
    sharing: how the pruned network, and then its tables, are trained. checkpoint: beginning of the name of a file that
    a killed training, the first, resumes from. Where that paper has Huffman codes, rANS stands here, whose codes are
    never longer by more than its 16 bytes a tensor. Batch norms are folded after pruning.
    """
    path = Path(path)
    if path.suffix != codec.SUFFIX:
        raise PacklightError(f"{path}: packed networks are {codec.SUFFIX} files")
    return classical(
        model, path, task_of(task), keep, bits, patterns_of(exclude), finetune, sharing,
        Path(checkpoint) if checkpoint else None, on_stage, on_step,
    )  # fmt: skip


def unpack(
    path: str | Path, out: str | Path, *, target: str | targets.Target = "onnxruntime", tables: bool = False
) -> Model | Artifact:
    """What a `.plt` file holds, as a `.plm` file or as a file for a runtime. The Model, or the Artifact.

    out: a `.plm` file, or what `export` takes. tables: weights of at most 256 different values as tables of them in
    the runtime's file, where the runtime has tables: a smaller file, the same numbers.
    """
    model = codec.load_packed(path)
    if Path(out).suffix == SUFFIX:
        model.save(out)
        return model
    if tables and not targets.get(target).numerics.tables:
        raise PacklightError(f"target {target!r} has no tables; unpack without them")
    return export(as_tables(model) if tables else model, out, target=target)


def convert(
    source: Source,
    path: str | Path,
    *,
    target: str | targets.Target = "onnxruntime",
    form: str | None = None,
    dims: Mapping[str, int] | None = None,
) -> Artifact:
    """Write any network that `load` opens as a file for a runtime, not compressed, and run it there beside the Model.

    path: the file. form, dims: as of `export`. Random inputs are compared; integers lie in the tables they look up.
    Raises PacklightError, and leaves no file, where the runtime gives other outputs, with the first layer that differs.
    """
    if not Path(path).suffix:
        raise PacklightError(f"{path}: name the file to write, such as {path}{targets.get(target).suffix}")
    model = with_shapes(load(source))
    artifact = export(model, path, target=target, form=form, dims=dims)
    inputs = tuple(t.numpy() for t in plausible_inputs(model, dict(dims or {})))
    parity = check_parity(fold_batch_norms(model), artifact, inputs)
    if not parity.ok:
        for name in artifact.manifest["files"]:
            (artifact.path.parent / name).unlink()
        manifest_path(artifact.path).unlink()
        raise PacklightError(f"{artifact.target.name} runs {model.name} wrongly: {parity.reason}")
    return artifact
