"""ONNX files come in: the same outputs as ONNX Runtime, one ATen node a layer, sizes and names kept."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_file_builder import FLOAT, INT64, built, node, saved

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.operators import packet
from packlight.sources import from_onnx
from packlight.testing.sources import SourceContract

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def kinds(model):
    return [packet(n) for n in model.nodes if n.op == "call_function"]


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    nodes = [
        node("Conv", "x w b", "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "conv g s m v", "norm"),
        node("Relu", "norm", "relu"),
        node("Shape", "relu", "shape"),
        node("Gather", "shape zero", "batch"),
        node("Unsqueeze", "batch axis", "row"),
        node("Concat", "row rest", "sizes", axis=0),
        node("Reshape", "relu sizes", "flat"),
        node("MatMul", "flat head", "scores"),
        node("Add", "scores offset", "y"),
    ]
    constants = {
        "w": floats(4, 3, 3, 3), "b": floats(4), "g": floats(4), "s": floats(4), "m": floats(4),
        "v": np.abs(floats(4)) + 1, "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]),
        "head": floats(64, 5), "offset": floats(5),
    }  # fmt: skip
    return saved(tmp_path_factory.mktemp("onnx") / "net.onnx", nodes, {"x": ["n", 3, 8, 8]}, constants)


class TestContract(SourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, convolutional):
        self.path = convolutional

    def load(self):
        return pl.load(self.path)

    def original(self, *inputs):
        return run(self.path, *inputs)


def test_layers_are_single_nodes_with_the_files_names(convolutional):
    model = pl.load(convolutional)
    assert kinds(model) == ["conv2d", "batch_norm", "relu", "sym_size", "reshape", "linear"]
    assert list(model.layers()) == ["the conv", "the norm", "the relu", "the flat", "the scores"]
    assert model.inputs[0].shape == ("n", 3, 8, 8) and model.outputs[0].shape == ("n", 5)
    assert model.notes == ()


def test_floats_that_weigh_are_parameters_and_statistics_are_buffers(convolutional):
    model = pl.load(convolutional)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert shapes == {"w": (4, 3, 3, 3), "b": (4,), "g": (4,), "s": (4,), "head": (5, 64), "offset": (5,)}
    assert {"m", "v"} <= model.named_tensors().keys() - shapes.keys()


def test_batch_norm_and_dropout_know_train_mode(tmp_path):
    nodes = [node("BatchNormalization", "x g s m v", "norm"), node("Dropout", "norm", "y")]
    constants = {"g": np.ones(3, np.float32), "s": floats(3), "m": floats(3), "v": np.abs(floats(3))}
    model = pl.load(saved(tmp_path / "net.onnx", nodes, {"x": ["n", 3, 4]}, constants))
    x = torch.randn(64, 3, 4) * 5
    trained = model.copy().train()(x)
    assert (trained == 0).float().mean() > 0.4  # dropout's rate is a half
    assert torch.allclose(model(x), torch.from_numpy(run(tmp_path / "net.onnx", x.numpy())[0]), atol=1e-5)


def test_a_wrong_rule_is_found_and_the_first_operator_that_differs_is_named(convolutional):
    def wrong(op, x):
        return op.call(torch.ops.aten.mul.Tensor, op.call(torch.ops.aten.relu.default, x), 1.01)

    with pytest.raises(PacklightError, match=r"'y' is not ONNX Runtime's.*the first that differs is 'the relu.mul'"):
        pl.load(convolutional, operators={("", "Relu"): wrong})


def test_operators_of_the_users_own_come_in_by_their_rule(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Twice", "x", "y", domain="my.house")], {"x": ["n", 2]})
    with pytest.raises(PacklightError, match=r"does not know: my.house.Twice \(1\).*rule of your own"):
        pl.load(path)
    model = pl.load(path, operators={("my.house", "Twice"): lambda op, x: op.call(torch.ops.aten.mul.Tensor, x, 2)})
    assert model(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]
    assert any("ONNX Runtime, which refuses the file" in note for note in model.notes)


def test_a_branch_on_a_constant_is_taken_and_one_that_is_computed_chooses_between_results(tmp_path):
    def branch(kind):
        return built([node(kind, "x", f"{kind}_out")], {}, outputs=f"{kind}_out").graph

    chosen = node("If", "flag", "y", then_branch=branch("Relu"), else_branch=branch("Neg"))
    model = pl.load(saved(tmp_path / "a.onnx", [chosen], {"x": ["n", 2]}, {"flag": np.array(False)}))
    assert kinds(model) == ["neg"]
    flag = ([], helper.TensorProto.BOOL)
    model = pl.load(saved(tmp_path / "b.onnx", [chosen], {"x": ["n", 2], "flag": flag}))
    x = torch.tensor([[-1.0, 2.0]])
    assert model(x, torch.tensor(True)).tolist() == [[0.0, 2.0]]
    assert model(x, torch.tensor(False)).tolist() == [[1.0, -2.0]]


def test_a_loop_of_known_turns_is_written_out(tmp_path):
    body = helper.make_graph(
        [node("Add", "state x", "next"), node("Identity", "going", "still"), node("Identity", "next", "row")], "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in
         (("turn", INT64, []), ("going", helper.TensorProto.BOOL, []), ("state", FLOAT, ["n", 2]))],
        [helper.make_empty_tensor_value_info(n) for n in ("still", "next", "row")],
    )  # fmt: skip
    loop = node("Loop", "turns go x", "y rows", body=body)
    constants = {"turns": np.array(3), "go": np.array(True)}
    model = pl.load(saved(tmp_path / "net.onnx", [loop], {"x": ["n", 2]}, constants, "y rows"))
    y, rows = model(torch.ones(1, 2)).values()
    assert y.tolist() == [[4.0, 4.0]] and rows.shape == (3, 1, 2)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "gates", "options"), [("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {})]
)
def test_a_recurrent_layer_with_its_state_in_and_out_is_torchs_own(tmp_path, kind, gates, options, direction):
    ways, cell = 1 + (direction == "bidirectional"), " c" if kind == "LSTM" else ""
    recurrent = node(
        kind, f"x w r b _ h{cell}", f"y last{cell and ' kept'}", hidden_size=4, direction=direction, **options
    )
    inputs = {"x": [7, "n", 3], "h": [ways, "n", 4], **({"c": [ways, "n", 4]} if cell else {})}
    constants = {"w": floats(ways, gates * 4, 3), "r": floats(ways, gates * 4, 4), "b": floats(ways, gates * 8)}
    names = "y last" + (" kept" if cell else "")
    model = pl.load(saved(tmp_path / "net.onnx", [recurrent], inputs, constants, names))
    assert {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[kind] in kinds(model)
    assert model.notes == () and len(model.outputs) == 2 + bool(cell)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_several_inputs_integers_and_a_dynamic_length(tmp_path):
    nodes = [
        node("Gather", "table ids", "words"),
        node("Cast", "mask", "keep", to=FLOAT),
        node("Unsqueeze", "keep last", "wide"),
        node("Mul", "words wide", "shown"),
        node("ReduceMean", "shown middle", "y", keepdims=0),
    ]
    constants = {"table": floats(50, 6), "last": np.array([2]), "middle": np.array([1])}
    inputs = {"ids": (["batch", "length"], INT64), "mask": (["batch", "length"], INT64)}
    model = pl.load(saved(tmp_path / "net.onnx", nodes, inputs, constants))
    assert [s.shape for s in model.inputs] == [("batch", "length")] * 2
    for batch, length in ((1, 3), (4, 9)):
        ids, mask = RNG.integers(0, 50, (batch, length)), RNG.integers(0, 2, (batch, length))
        wanted = run(tmp_path / "net.onnx", ids, mask)[0]
        assert np.allclose(model(torch.from_numpy(ids), torch.from_numpy(mask)).detach().numpy(), wanted, atol=1e-6)


def test_an_input_may_be_held_as_a_constant(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Reshape", "x sizes", "y")], {"x": ["n", 6], "sizes": ([2], INT64)})
    with pytest.raises(PacklightError, match="node 'the y': Reshape takes its shape from a tensor that is computed"):
        pl.load(path)
    assert pl.load(path, constants={"sizes": np.array([-1, 3])})(torch.ones(2, 6)).shape == (4, 3)


def test_a_fixed_batch_can_be_made_dynamic(tmp_path):
    path = saved(tmp_path / "net.onnx", [node("Relu", "x", "y")], {"x": [1, 6]})
    assert pl.load(path).fixed_batch == 1
    assert pl.load(path, dynamic={"x": {0: "batch"}}).inputs[0].shape == ("batch", 6)


@pytest.mark.parametrize("half", [np.float16, "bfloat16"])
def test_half_precision_comes_in_as_it_is(tmp_path, half):
    if half == "bfloat16":
        import ml_dtypes

        half = ml_dtypes.bfloat16
    nodes = [node("Cast", "x", "h", to=helper.np_dtype_to_tensor_dtype(np.dtype(half))), node("MatMul", "h w", "y")]
    model = pl.load(saved(tmp_path / "net.onnx", nodes, {"x": ["n", 3]}, {"w": floats(3, 5).astype(half)}))
    assert dict(model.named_parameters())["w"].dtype == getattr(torch, np.dtype(half).name)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 23])
def test_operator_sets_old_and_new(tmp_path, opset):
    """What moved from attributes to inputs, and what changed its meaning, on the way."""
    old = opset < 13
    nodes = [
        node("Unsqueeze", "x", "wide", axes=[0]) if old else node("Unsqueeze", "x zero", "wide"),
        node("Squeeze", "wide", "flat", axes=[0]) if old else node("Squeeze", "wide zero", "flat"),
        node("Softmax", "flat", "soft", axis=1 if old else -1),
        node("Slice", "soft", "part", starts=[0], ends=[2], axes=[1]) if opset < 10
        else node("Slice", "soft zero two one", "part"),
        node("Clip", "part", "clipped", min=0.1, max=0.9) if opset < 11 else node("Clip", "part low high", "clipped"),
        node("ReduceSum", "clipped", "y", axes=[1]) if old else node("ReduceSum", "clipped one", "y"),
    ]  # fmt: skip
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "low": np.float32(0.1),
        "high": np.float32(0.9),
    }  # fmt: skip
    used = {n for made in nodes for n in made.input}
    constants = {n: np.asarray(v) for n, v in constants.items() if n in used}
    assert pl.load(saved(tmp_path / "net.onnx", nodes, {"x": ["n", 5]}, constants, opset=opset)).notes == ()


def test_layers_that_exporters_take_apart_are_put_together(tmp_path):
    nodes = [
        node("ReduceMean", "x", "mean", axes=[-1]), node("Sub", "x mean", "off"), node("Pow", "off two", "square"),
        node("ReduceMean", "square", "var", axes=[-1]), node("Add", "var eps", "safe"), node("Sqrt", "safe", "root"),
        node("Div", "off root", "unit"), node("Mul", "unit scale", "scaled"), node("Add", "scaled shift", "normed"),
        node("Div", "normed root2", "small"), node("Erf", "small", "erf"), node("Add", "erf one", "gate"),
        node("Mul", "normed gate", "double"), node("Mul", "double half", "gelu"),
        node("Sigmoid", "gelu", "open"), node("Mul", "gelu open", "y"),
    ]  # fmt: skip
    scalars = {"two": 2.0, "eps": 1e-5, "root2": 2**0.5, "one": 1.0, "half": 0.5}
    constants = {n: np.array(v, np.float32) for n, v in scalars.items()} | {"scale": floats(6), "shift": floats(6)}
    model = pl.load(saved(tmp_path / "net.onnx", nodes, {"x": ["n", 4, 6]}, constants, opset=17))
    assert kinds(model) == ["layer_norm", "gelu", "silu"]


@pytest.mark.parametrize(("groups", "axes"), [(1, 2), (3, 2), (2, 1)])
def test_group_norm_comes_back_under_its_name(tmp_path, groups, axes):
    """torch's exporter writes it as an instance norm of another shape, times and plus constants of [channels, 1, …]."""
    convolution = torch.nn.Conv2d if axes == 2 else torch.nn.Conv1d
    layers = {"body": convolution(3, 6, 3), "norm": torch.nn.GroupNorm(groups, 6), "head": convolution(6, 2, 1)}
    module = torch.nn.Sequential(OrderedDict(layers)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-1, 1)
    there = pl.load(module, torch.randn(2, 3, *[8] * axes))
    back = pl.load(pl.export(there, tmp_path / "net.onnx").path)
    assert "group_norm" in kinds(back) and "instance_norm" not in kinds(back)
    parameters = dict(back.named_parameters())
    torch.testing.assert_close(parameters["norm.weight"], module.norm.weight)
    x = there.example_inputs(3)
    torch.testing.assert_close(back(*x), there(*x))


def test_an_instance_norm_with_weights_of_its_own_is_no_group_norm(tmp_path):
    nodes = [
        node("Reshape", "x rows", "wide"), node("InstanceNormalization", "wide own zeros", "normed", epsilon=1e-5),
        node("Reshape", "normed back", "same"), node("Mul", "same scale", "scaled"), node("Add", "scaled shift", "y"),
    ]  # fmt: skip
    constants = {
        "rows": np.array([0, 2, -1]), "back": np.array([-1, 4, 5]), "own": np.array([1, 2], np.float32),
        "zeros": np.zeros(2, np.float32), "scale": floats(4, 1), "shift": floats(4, 1),
    }  # fmt: skip
    model = pl.load(saved(tmp_path / "net.onnx", nodes, {"x": ["n", 4, 5]}, constants, opset=17))
    assert "instance_norm" in kinds(model) and "group_norm" not in kinds(model)


def test_a_mask_of_minus_infinity_is_no_parameter(tmp_path):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [node("Add", "x mask", "masked"), node("Softmax", "masked", "soft", axis=-1), node("Mul", "soft w", "y")]
    path = saved(tmp_path / "net.onnx", nodes, {"x": ["n", 4, 4]}, {"mask": mask, "w": floats(4)}, opset=17)
    assert [n for n, _ in pl.load(path).named_parameters()] == ["w"]


def test_names_that_are_no_identifiers_come_in(tmp_path):
    path = saved(
        tmp_path / "net.onnx", [node("Mul", "1:x /w.weight", "y")], {"1:x": ["N-1", 2]}, {"/w.weight": floats(2)}
    )
    model = pl.load(path)
    assert [s.name for s in model.inputs] == ["1:x"] and model(torch.ones(3, 2)).shape == (3, 2)


def test_a_missing_package_says_its_install_line(convolutional, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(PacklightError, match=r"pip install 'packlight\[onnxruntime\]'"):
        from_onnx(convolutional)
