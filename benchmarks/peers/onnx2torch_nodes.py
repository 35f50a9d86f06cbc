"""onnx2torch on the node tests that the onnx package ships, beside packlight on the same ones.

Both may have inputs as constants, the fewest that help, and are held to the tests' own tolerances. Prints both counts.
https://github.com/ENOT-AutoDL/onnx2torch
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

TESTS = Path(__file__).parents[2] / "tests" / "sources"
_DECLARED = tuple(f"{n}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for n in ("nms", "qnms"))


def converter() -> Any:
    """onnx2torch's `convert`, with torchvision imported beside a torch that it was not built for."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in _DECLARED:
        library.define(schema)
    import onnx2torch

    return onnx2torch.convert, library


def with_constants(model: onnx.ModelProto, given: dict[str, Any]) -> onnx.ModelProto:
    """The model with inputs as initializers."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    left = [v for v in made.graph.input if v.name not in given]
    del made.graph.input[:]
    made.graph.input.extend(left)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in given.items())
    return made


def problem(convert: Any, case: Any, bound: tuple[str, ...]) -> str:
    """ "" where the converted module gives the test's outputs, else what is wrong."""
    names = [v.name for v in case.model.graph.input]
    try:
        for inputs, outputs in case.data_sets:
            given = dict(zip(names, map(_array, inputs), strict=True))
            module = convert(with_constants(case.model, {n: given[n] for n in bound})).eval()
            with torch.no_grad():
                got = module(*(torch.from_numpy(np.array(a)) for n, a in given.items() if n not in bound))
            for g, w in zip(got if isinstance(got, list | tuple) else [got], map(_array, outputs), strict=True):
                found = g.numpy()
                if (found.shape, found.dtype) != (w.shape, w.dtype):
                    return f"shape or type: {found.shape} {found.dtype}, not {w.shape} {w.dtype}"
                if not case.name.startswith("test_bernoulli"):
                    np.testing.assert_allclose(found, w, rtol=case.rtol, atol=case.atol)
    except Exception as error:  # noqa: BLE001  (a test that fails in any way fails)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return ""


def _array(given: Any) -> Any:
    return numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)


def passes(convert: Any, case: Any) -> tuple[bool, str]:
    """Whether a test passes with any choice of constants, and what is wrong without any."""
    names = [v.name for v in case.model.graph.input]
    first = ""
    for count in range(len(names) + 1):
        for bound in combinations(names, count):
            said = problem(convert, case, bound)
            if not said:
                return True, ""
            first = first or said
    return False, first


def main() -> None:
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(TESTS))
    from onnx_node_tests import LISTED, cases

    convert, _library = converter()
    every, reasons, passed = cases(), Counter(), 0
    for case in every.values():
        good, why = passes(convert, case)
        passed += good
        reasons[why.partition(":")[0]] += not good
    ours = len(every) - len(json.loads(LISTED.read_text())["refused"])
    print(f"of {len(every):,} node tests of onnx {onnx.__version__}: packlight {ours:,}, onnx2torch {passed:,}")
    print("onnx2torch's failures: " + ", ".join(f"{c} {k}" for k, c in reasons.most_common() if c))


if __name__ == "__main__":
    main()
