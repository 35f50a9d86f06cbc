"""A teacher in a training run: its class scores, and features of layers, as losses."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from packlight.errors import PacklightError
from packlight.model import Model, fingerprint
from packlight.model.lineage import digest, options_of
from packlight.task import ArrayData
from packlight.train.hooks import Hook, Run, Seen
from packlight.train.losses import Distillation, attention_loss, relation_loss, score_loss
from packlight.train.taps import Tapped

_IN_MEMORY = 1 << 28  # bytes of answers that are kept without being asked to


@dataclass(frozen=True)
class Feature:
    """A student's layer that is to be like a teacher's, by layer names (`packlight inspect` lists them).

    kind: "hint" (mean squared difference, the student's seen through a learned linear map of its channels; FitNets,
    Romero et al. 2014, arXiv 1412.6550), "attention" (where it is active) or "relation" (how places relate, for the
    queries, keys or values of transformers; MiniLMv2). weight: > 0. heads: of "relation".
    """

    student: str
    teacher: str
    kind: str = "hint"
    weight: float = 1.0
    heads: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("hint", "attention", "relation") or not self.weight > 0 or self.heads < 1:
            raise PacklightError(
                f"a feature needs kind hint, attention or relation, weight > 0 and heads >= 1, got {self.kind!r}, "
                f"{self.weight}, {self.heads}"
            )


class Distill(Hook):
    """Follow a teacher.

    teacher: a Model, or a callable from the input tensors to class scores. features: layers to follow as well; the
    teacher must then be a Model. cache: a file prefix; the teacher's answers to data that is not augmented are written
    there and used again, by later runs too. Without it they are kept in memory where they fit.
    teacher_s: seconds that the teacher took so far.
    """

    def __init__(
        self, teacher: Model | Callable[..., Any], how: Distillation = Distillation(), features: Sequence[Feature] = (),
        cache: str | Path | None = None,
    ):  # fmt: skip
        if features and not isinstance(teacher, Model):
            raise PacklightError("features are read from the teacher's layers: it must be a packlight Model")
        if cache and not isinstance(teacher, Model | nn.Module):
            raise PacklightError(
                "answers in files are known by the teacher's weights: it must be a packlight Model or a torch module"
            )
        self.teacher, self.how, self.features = teacher, how, tuple(features)
        self.cache = Path(cache) if cache else None
        self.taps = tuple(dict.fromkeys(f.student for f in features))
        self.task_weight = 1 - how.weight
        self.teacher_s = 0.0
        self._maps: dict[int, nn.Module] = {}
        self._answers: _Answers | None = None
        self._tapped: Tapped | None = None

    def start(self, run: Run) -> None:
        if isinstance(self.teacher, Model):
            mine = self.teacher.copy().to(run.device).eval()
            self._tapped = Tapped(mine, tuple(dict.fromkeys(f.teacher for f in self.features)))
            self._check(run, mine)
        if not self.features and isinstance(run.data, ArrayData):
            self._answers = _Answers(self.cache, digest([self.identity(), run.data.fingerprint()]), len(run.data))

    def _check(self, run: Run, teacher: Model) -> None:
        """Both answer the same example, in shapes that fit; projections are made."""
        assert self._tapped is not None
        mine = Tapped(run.model, self.taps)
        example = tuple(x.to(run.device) for x in run.model.example_inputs())
        teacher.check_inputs([x.shape for x in example], [str(x.dtype).removeprefix("torch.") for x in example])
        with torch.no_grad():
            outputs, seen = mine(*example)
            wanted, theirs = self._tapped(*example)
            if self.how.weight > 0:
                score_loss(outputs[0], wanted[0], None, Distillation(weight=1.0))
        generator = torch.Generator().manual_seed(0)
        for i, feature in enumerate(self.features):
            if feature.kind == "hint":
                one, other = self._layer(seen, feature.student), self._layer(theirs, feature.teacher)
                self._maps[i] = _projection(one, other, generator).to(run.device)
            with torch.no_grad():
                self._feature_loss(i, seen, theirs)

    def parameters(self) -> list[nn.Parameter]:
        return [p for m in self._maps.values() for p in m.parameters()]

    def loss(self, run: Run, seen: Seen) -> Tensor | None:
        began = perf_counter()
        with torch.no_grad():
            scores, theirs = self._ask(seen)
        self.teacher_s += perf_counter() - began
        parts = []
        if self.how.weight > 0:
            parts.append(self.how.weight * score_loss(seen.outputs[0], scores, seen.targets, self.how))
        parts += [f.weight * self._feature_loss(i, seen.taps, theirs) for i, f in enumerate(self.features)]
        return torch.stack(parts).sum() if parts else None

    def _feature_loss(self, i: int, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        feature = self.features[i]
        student, teacher = self._layer(mine, feature.student), self._layer(theirs, feature.teacher)
        if feature.kind == "attention":
            return attention_loss(student, teacher)
        if feature.kind == "relation":
            return relation_loss(student, teacher, feature.heads)
        return F.mse_loss(_to_size(self._maps[i](student.float()), teacher).float(), teacher.float())

    def _layer(self, seen: Mapping[str, Tensor], name: str) -> Tensor:
        if not isinstance(seen[name], Tensor):
            raise PacklightError(f"layer {name!r} gives several tensors; follow a layer behind it that gives one")
        return seen[name]

    def _ask(self, seen: Seen) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self._answers is None or seen.index is None:
            return self._run(seen.inputs)
        known = self._answers.get(seen.index)
        if known is None:
            scores, _ = self._run(seen.inputs)
            self._answers.put(seen.index, scores.float().cpu().numpy())
            return scores, {}
        return torch.from_numpy(known).to(seen.outputs[0].device), {}

    def _run(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self._tapped is None:
            given: Any = self.teacher
            found = given(*inputs)
            scores = found[0] if isinstance(found, tuple | list) and found else found
            if not isinstance(scores, Tensor):
                raise PacklightError(
                    f"a teacher that is a callable must return a tensor of class scores, got {type(scores).__name__}; "
                    "wrap it: lambda x: teacher(x).logits"
                )
            return scores, {}
        outputs, taps = self._tapped(*inputs)
        return outputs[0], taps

    def identity(self) -> str:
        if isinstance(self.teacher, Model):
            return self.teacher.fingerprint()
        if isinstance(self.teacher, nn.Module):
            return digest([repr(self.teacher), fingerprint(self.teacher.state_dict())])
        return ""

    def options(self) -> dict[str, Any]:
        name = self.teacher.name if isinstance(self.teacher, Model) else getattr(self.teacher, "__name__", "callable")
        features = {"features": [asdict(f) for f in self.features]} if self.features else {}
        return {"teacher": name, **options_of(self.how), **features}


def _projection(student: Tensor, teacher: Tensor, generator: torch.Generator) -> nn.Module:
    """A linear map of channels: 1×1 convolution for [n, c, …], linear for [n, …, c] of at most three axes."""
    convolved = student.dim() >= 4
    axis = 1 if convolved else -1
    if student.dim() != teacher.dim():
        raise PacklightError(f"a hint needs features alike, got {list(student.shape)} for {list(teacher.shape)}")
    inputs, outputs = student.shape[axis], teacher.shape[axis]
    made = nn.Conv2d(inputs, outputs, 1, bias=False) if convolved else nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=generator) / math.sqrt(inputs))
    return made


def _to_size(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map averaged or stretched to the teacher's size."""
    if student.shape == teacher.shape:
        return student
    if student.dim() != 4:
        raise PacklightError(f"features {list(student.shape)} and {list(teacher.shape)} do not match")
    return F.adaptive_avg_pool2d(student, (teacher.shape[2], teacher.shape[3]))


class _Answers:
    """What a teacher said to each sample: in memory, or in PREFIX.npy and PREFIX.known.npy, which later runs read."""

    def __init__(self, prefix: Path | None, identity: str, samples: int):
        self.prefix, self.identity, self.samples = prefix, identity, samples
        self.scores: Any = None
        self.known: Any = None

    def get(self, index: Any) -> Any:
        """Rows for these positions; None unless all are known."""
        if self.scores is None and not self._opened():
            return None
        return np.array(self.scores[index]) if self.known[index].all() else None

    def put(self, index: Any, rows: Any) -> None:
        if self.scores is None and not self._made(rows):
            return
        self.scores[index] = rows
        self.known[index] = True

    def _files(self) -> tuple[Path, Path]:
        assert self.prefix is not None
        stem = f"{self.prefix.name}-{self.identity[:16]}"
        return self.prefix.with_name(f"{stem}.npy"), self.prefix.with_name(f"{stem}.known.npy")

    def _opened(self) -> bool:
        if self.prefix is None or not all(path.exists() for path in self._files()):
            return False
        try:
            scores, known = (open_memmap(path, mode="r+") for path in self._files())
            if not (len(scores) == len(known) == self.samples):
                raise ValueError(f"they are of {len(scores)} and {len(known)} samples, the data has {self.samples}")
        except (OSError, ValueError) as error:
            where = self._files()[0]
            raise PacklightError(f"the teacher's answers in {where} are damaged: {error}; delete them") from error
        self.scores, self.known = scores, known
        return True

    def _made(self, rows: Any) -> bool:
        shape = (self.samples, *rows.shape[1:])
        if self.prefix is None:
            if 4 * math.prod(shape) > _IN_MEMORY:
                return False
            self.scores, self.known = np.empty(shape, np.float32), np.zeros(self.samples, bool)
            return True
        try:
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            scores, known = self._files()
            _make_whole(scores, np.float32, shape)
            _make_whole(known, bool, (self.samples,))
        except OSError as error:
            raise PacklightError(f"cannot write the teacher's answers to {self.prefix}: {error.strerror}") from error
        return self._opened()


def _make_whole(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """A file of zeros, there whole at once; where another process was faster, its file stays."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        open_memmap(temporary, mode="w+", dtype=dtype, shape=shape).flush()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
