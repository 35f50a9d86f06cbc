"""Foreign files that are no plain chains go the whole way: read, quantized, exported, run."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnx_file_builder import FLOAT, INT64, built, node, saved

import packlight as pl
from packlight.targets.artifact import Runner

RNG = np.random.default_rng(0)
HIDDEN, WORDS, WIDE = 16, 40, 24


def floats(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Token ids, a mask and a recurrent state in; scores and the next state out; an `If` on a constant between."""
    branches = {
        "then_branch": built([node("Relu", "summed", "rectified")], {}, outputs="rectified").graph,
        "else_branch": built([node("Tanh", "summed", "squashed")], {}, outputs="squashed").graph,
    }
    nodes = [
        node("Gather", "table ids", "words"),
        node("Cast", "mask", "keep", to=FLOAT),
        node("Unsqueeze", "keep last", "wide"),
        node("Mul", "words wide", "shown"),
        node("Transpose", "shown", "steps", perm=[1, 0, 2]),
        node("GRU", "steps w r b _ state", "all next", hidden_size=HIDDEN, linear_before_reset=1),
        node("Squeeze", "next first", "summary"),
        node("Gemm", "summary dense bias", "summed"),
        node("If", "flag", "active", **branches),
        node("MatMul", "active head", "scores"),
    ]
    constants = {
        "table": floats(WORDS, HIDDEN), "last": np.array([2]), "first": np.array([0]), "flag": np.array(True),
        "w": floats(1, 3 * HIDDEN, HIDDEN), "r": floats(1, 3 * HIDDEN, HIDDEN), "b": floats(1, 6 * HIDDEN),
        "dense": floats(HIDDEN, WIDE), "bias": floats(WIDE), "head": floats(WIDE, 5),
    }  # fmt: skip
    inputs = {
        "ids": (["batch", "length"], INT64), "mask": (["batch", "length"], TensorProto.INT32),
        "state": [1, "batch", HIDDEN],
    }  # fmt: skip
    return saved(tmp_path_factory.mktemp("onnx") / "net.onnx", nodes, inputs, constants, "scores next")


def samples(n, length=7):
    return (
        RNG.integers(0, WORDS, (n, length)), np.ones((n, length), np.int32),
        RNG.standard_normal((n, 1, HIDDEN)).astype(np.float32),
    )  # fmt: skip


def inputs(batch):
    ids, mask, state = samples(batch)
    return ids, mask, np.ascontiguousarray(state.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("mode", "target"),
    [
        ("dynamic", "onnxruntime"),
        ("weights", "onnxruntime"),
        pytest.param("dynamic", "openvino", marks=pytest.mark.slow),
    ],
)
def test_states_tokens_masks_and_a_branch_go_the_whole_way(path, tmp_path, mode, target):
    model = pl.load(path)
    assert [s.name for s in model.inputs] == ["ids", "mask", "state"]
    assert model.notes == ()
    small = pl.quantize(model, mode=mode, target=target)
    assert small.is_quantized
    given = inputs(3)
    with torch.no_grad():
        whole, wanted = (tuple(m(*map(torch.from_numpy, given)).values()) for m in (model, small))
    with Runner(pl.export(small, tmp_path / "net", target=target)) as run:
        got = run(*given)
        again = run(*inputs(2)[:2], got[1][:, :2])  # the state goes on, with another batch
    assert got[1].shape == (1, 3, HIDDEN) and again[0].shape == (2, 5)
    for g, w, f in zip(got, wanted, whole, strict=True):
        assert np.abs(g - w.numpy()).max() < 1e-4 * (1 + np.abs(w.numpy()).max())
        assert (w - f).abs().max() < 0.05 * (1 + f.abs().max())
