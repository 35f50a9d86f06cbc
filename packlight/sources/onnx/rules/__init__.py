"""What each ONNX operator is in ATen: a function of (op, *inputs) a kind. A file of yours may add to the table."""

from __future__ import annotations

from packlight.sources.onnx.op import Rule
from packlight.sources.onnx.rules import (
    attention,
    contraction,
    contrib,
    control,
    convolution,
    elementwise,
    indexing,
    integers,
    normalisation,
    pooling,
    quantized,
    recurrent,
    reduction,
    resize,
    shape,
    signal,
)

MICROSOFT = "com.microsoft"
_STANDARD: dict[str, Rule] = {
    **elementwise.RULES, **shape.RULES, **convolution.RULES, **pooling.RULES, **contraction.RULES,
    **normalisation.RULES, **reduction.RULES, **indexing.RULES, **recurrent.RULES, **control.RULES,
    **quantized.RULES, **integers.RULES, **resize.RULES, **attention.RULES, **signal.RULES,
}  # fmt: skip
_MOVES = """Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Gather Expand Identity MaxPool DepthToSpace
    Dropout""".split()
TABLE: dict[tuple[str, str], Rule] = {
    **{("", kind): rule for kind, rule in _STANDARD.items()},
    **{("", kind): quantized.on_grid(_STANDARD[kind]) for kind in _MOVES},
    ("", "Max"): quantized.clamp_on_grid(_STANDARD["Max"], below=True),
    ("", "Min"): quantized.clamp_on_grid(_STANDARD["Min"], below=False),
    **{(MICROSOFT, kind): rule for kind, rule in contrib.RULES.items()},
}
