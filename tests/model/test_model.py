"""The Model: calling, copying, training mode, tensors, tidying, layer patterns."""

from __future__ import annotations

import pytest
import torch
from captures import call, captured, flat
from torch import nn
from zoo import ZOO

from packlight.errors import PacklightError
from packlight.model import Model, Step, matching
from packlight.model.operators import packet
from packlight.sources import from_module

every_network = pytest.mark.parametrize("name", ZOO)


@pytest.fixture(scope="module")
def two_inputs() -> Model:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, ids, image):
            return {"a": self.embed(ids).sum(1) + image, "b": image * 2}

    return from_module(Net(), {"ids": torch.ones(2, 4, dtype=torch.long), "image": torch.ones(2, 3)})


# calling


def test_inputs_may_be_given_by_position_by_name_or_both(two_inputs):
    ids, image = two_inputs.example_inputs(batch=3)
    wanted = two_inputs(ids, image)
    for got in (two_inputs(ids=ids, image=image), two_inputs(image=image, ids=ids), two_inputs(ids, image=image)):
        assert all(got[k].equal(wanted[k]) for k in ("a", "b"))


@pytest.mark.parametrize(
    ("arguments", "names", "reason"),
    [
        ((), (), r"takes inputs \['ids', 'image'\], got \[\]"),
        ((0,), (), r"got \['#0'\]"),
        ((0, 1, 1), (), r"got \['#0', '#1', '#2'\]"),
        ((0, 1), ("image",), r"got \['#0', '#1', 'image'\]"),
        ((0,), ("picture",), r"got \['#0', 'picture'\]"),
    ],
    ids=["none", "too few", "too many", "twice", "unknown name"],
)
def test_a_wrong_set_of_inputs_gets_one_line(two_inputs, arguments, names, reason):
    given = two_inputs.example_inputs()
    with pytest.raises(PacklightError, match=reason) as error:
        two_inputs(*(given[i] for i in arguments), **dict.fromkeys(names, given[1]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "image", "reason"),
    [
        (
            torch.ones(2, 4, dtype=torch.long),
            torch.ones(2, 9),
            r"input 'image': got shape \[2, 9\], .* float32\[batch, 3\]",
        ),
        (torch.ones(2, 4, dtype=torch.long), torch.ones(3), r"input 'image': got shape \[3\]"),
        (torch.ones(2, 4, dtype=torch.long), torch.ones(5, 3), r"got shape \[5, 3\], .* with batch = 2"),
        (torch.ones(2, 4), torch.ones(2, 3), r"input 'ids': got float32, the model takes int64\[batch, 4\]"),
        (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 3).double(), r"input 'image': got float64, .* convert it"),
        (
            torch.ones(2, 4, dtype=torch.long).numpy(),
            torch.ones(2, 3),
            "input 'ids' must be a torch tensor, got ndarray",
        ),
        (None, torch.ones(2, 3), "input 'ids' must be a torch tensor, got NoneType"),
    ],
    ids=["size", "rank", "two batches", "float for int", "double", "numpy", "none"],
)
def test_an_input_that_does_not_fit_gets_one_line(two_inputs, ids, image, reason):
    with pytest.raises(PacklightError, match=reason) as error:
        two_inputs(ids, image)
    assert "\n" not in str(error.value)


def test_check_inputs_gives_the_sizes_of_dynamic_dimensions(two_inputs):
    assert two_inputs.check_inputs([(7, 4), (7, 3)]) == {"batch": 7}
    with pytest.raises(PacklightError, match="takes 2 inputs"):
        two_inputs.check_inputs([(7, 4)])


@every_network
def test_example_inputs_fit_and_follow_the_seed(name):
    model = captured(name).model
    first, again, other = (model.example_inputs(seed=s) for s in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))
    model.flat(*first)


def test_example_inputs_take_other_sizes(two_inputs):
    assert [len(t) for t in two_inputs.example_inputs(batch=9)] == [9, 9]


@every_network
def test_outputs_are_as_the_specs_say(name):
    model = captured(name).model
    inputs = model.example_inputs(**dict.fromkeys(model.dims, 4))
    dims = model.check_inputs([t.shape for t in inputs])
    for spec, got in zip(model.outputs, model.flat(*inputs), strict=True):
        assert spec.sizes(dims) == got.shape
        assert spec.dtype == str(got.dtype).removeprefix("torch.")


# copying


@every_network
def test_a_copy_shares_nothing(name):
    model = captured(name).model
    twin = model.copy()
    pointers = [{t.data_ptr() for t in m.named_tensors().values() if t.numel()} for m in (model, twin)]
    assert pointers[0].isdisjoint(pointers[1])
    assert set(model.nodes).isdisjoint(twin.nodes)
    for mine, theirs in zip(model.nodes, twin.nodes, strict=True):
        assert mine.meta is not theirs.meta
        assert "modes" not in mine.meta or mine.meta["modes"] is not theirs.meta["modes"]
    assert model.dims is not twin.dims
    assert model.limits is not twin.limits


@every_network
def test_a_copy_computes_the_same(name):
    c = captured(name)
    with torch.no_grad():
        pairs = zip(flat(call(c.model, c.example)), flat(call(c.model.copy(), c.example)), strict=True)
    assert all(a.equal(b) for a, b in pairs)


def test_what_happens_to_a_copy_does_not_happen_to_the_model():
    model = captured("cnn").model
    code, training = model.graph_module.code, model.training
    before = {n: t.clone() for n, t in model.named_tensors().items()}
    twin = model.copy().train()
    twin.set_tensor("head.bias", torch.zeros(6), trainable=True)
    twin(torch.randn(4, 3, 8, 8)).sum().backward()
    twin.with_step(Step("x")).nodes[-2].meta["layer"] = "renamed"
    assert (model.graph_module.code, model.training) == (code, training)
    assert all(t.equal(before[n]) and t.grad is None for n, t in model.named_tensors().items())
    assert [s.name for s in model.lineage] == ["load"]
    assert "renamed" not in model.layers()


def test_a_copy_over_shared_tensors_has_a_graph_of_its_own():
    model = captured("cnn").model
    twin = model.copy(share_tensors=True).train()
    assert not model.training
    assert twin.graph_module.code != model.graph_module.code
    mine, theirs = model.named_tensors(), twin.named_tensors()
    assert mine.keys() == theirs.keys()
    assert all(t.data_ptr() == theirs[n].data_ptr() for n, t in mine.items())


# tensors


def test_a_tensor_can_be_replaced_and_added():
    model = captured("mlp").model.copy()
    model.set_tensor("0.weight", torch.zeros(16, 12), trainable=True)
    model.set_tensor("new.deep.table", torch.ones(3))
    assert model.named_tensors()["0.weight"].sum() == 0
    assert "new.deep.table" not in dict(model.named_parameters())
    model(torch.randn(2, 12)).sum().backward()
    assert dict(model.named_parameters())["0.weight"].grad is not None


@pytest.mark.parametrize(
    "name", ["forward", "graph.weight", "__class__", "training", "a.__dict__", "lambda", "a'b", "", "a..b", "0"]
)
def test_a_tensor_name_that_would_break_the_module_is_refused(name):
    model = captured("mlp").model.copy()
    with pytest.raises(PacklightError, match="tensor name"):
        model.set_tensor(name, torch.zeros(1))


def test_tidy_drops_what_nothing_uses_and_keeps_the_outputs():
    model = captured("tied").model.copy()
    tokens = torch.randint(0, 11, (2, 5))
    wanted = model(tokens)
    graph = model.graph_module.graph
    model.set_tensor("unused.table", torch.ones(3))
    with graph.inserting_before(graph.output_node()):
        dead = graph.call_function(torch.ops.aten.relu.default, (graph.get_attr("unused.table"),))
        graph.call_function(torch.ops.aten.relu.default, (dead,))
    count = len(model.nodes)
    model.tidy()
    assert len(model.nodes) == count - 3
    assert set(model.named_tensors()) == {"embed.weight"}
    assert model(tokens).equal(wanted)


def test_one_tensor_under_two_names_is_listed_twice():
    model = captured("mlp").model.copy()
    table = torch.ones(2)
    model.set_tensor("a", table)
    model.set_tensor("b", table)
    assert {"a", "b"} <= model.named_tensors().keys()


# mode


def test_training_mode_switches_dropout_and_batch_norm():
    model = captured("cnn").model.copy().train()
    by_name = {packet(n): n for n in model.nodes}
    assert by_name["batch_norm"].args[5] is True
    assert by_name["dropout"].args[1:] == (0.5, True)
    model.eval()
    assert by_name["batch_norm"].args[5] is False
    assert by_name["dropout"].args[2] is False


def test_attention_dropout_is_on_in_training_only():
    model = captured("vit").model.copy()
    attention = [n for n in model.nodes if packet(n) == "scaled_dot_product_attention"]
    assert all(n.meta["modes"] == {"dropout_p": (0.0, 0.1)} for n in attention)


# moving


def test_moving_rewrites_the_devices_inside_the_graph():
    model = captured("torch_encoder").model.copy().to("meta")
    assert {t.device.type for t in model.named_tensors().values()} == {"meta"}
    inside = [v for n in model.nodes for v in (*n.args, *n.kwargs.values()) if isinstance(v, torch.device)]
    assert {d.type for d in inside} <= {"meta"}


# layer patterns

NAMES = ["stem.0", "stem.1", "layer1.0.conv1", "layer1.0.conv2", "layer10.conv", "head"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["head"], {"head"}),
        (["layer1"], {"layer1.0.conv1", "layer1.0.conv2"}),
        (["*.conv?"], {"layer1.0.conv1", "layer1.0.conv2"}),
        (["stem.*", "head"], {"stem.0", "stem.1", "head"}),
        (["*"], set(NAMES)),
        ([], set()),
    ],
    ids=["one", "a block", "a wildcard", "several", "all", "none"],
)
def test_patterns_match_names_and_whole_blocks(patterns, found):
    assert matching(NAMES, patterns) == found


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("layer1.0.conv3", "layer1.0.conv"), ("haed", "head"), ("stem.*.x", "stem.0"), ("Head", "head")],
)
def test_a_pattern_that_matches_nothing_names_near_misses(pattern, near):
    with pytest.raises(PacklightError, match=rf"no layer matches '{pattern.replace('*', '.')}'.*did you mean .*{near}"):
        matching(NAMES, [pattern])


def test_a_pattern_for_a_model_without_layers_says_so():
    with pytest.raises(PacklightError, match="the model has no layer"):
        matching([], ["x"])


def test_repr_tells_inputs_size_and_steps():
    model = captured("mlp").model.copy().with_step(Step("prune", options={"keep": 0.5, "seed": None}))
    assert (
        repr(model)
        == "Model Sequential(input: float32[batch, 12]), 293 parameters → load(from=Sequential) → prune(keep=0.5)"
    )
