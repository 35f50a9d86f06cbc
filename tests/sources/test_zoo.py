"""Every network of the zoo, captured: the same outputs, gradients and training as the module, which stays as it was."""

from __future__ import annotations

import pytest
import torch
from captures import call, captured, flat, resized, state_of
from torch import Tensor, nn
from zoo import ZOO

from packlight.sources import from_module

# The graph runs the same kernels as the module. Only nn.TransformerEncoder's fused eval path sums in another order,
# which costs float32 a few units in the last place of values around 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
STATIC = {"static_batch"}
LEFT_OUT = {"stochastic_depth"}  # its training branch cannot be in the graph
BATCH_NORM = ["cnn", "residual", "depthwise", "inception", "unet", "squeeze_excite", "other_norms", "decoder", "speech"]

every_network = pytest.mark.parametrize("name", ZOO)


def assert_same(got: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(got) == len(wanted)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, **CLOSE, equal_nan=True)


def test_a_scale_error_of_one_percent_would_be_noticed():
    c = captured("cnn")
    wanted = flat(call(c.fresh(), c.example))
    with pytest.raises(AssertionError):
        assert_same([1.01 * w for w in wanted], wanted)


@pytest.mark.parametrize(("name", "batch"), [(n, b) for n in ZOO for b in ((3,) if n in STATIC else (1, 2, 3, 7))])
def test_outputs_equal_the_modules(name, batch):
    c = captured(name)
    inputs = resized(c.example, batch)
    with torch.no_grad():
        wanted, got = call(c.fresh(), inputs), call(c.model, inputs)
    assert_same(flat(got), flat(wanted))


@every_network
def test_outputs_nest_as_the_modules_do(name):
    c = captured(name)
    with torch.no_grad():
        wanted, got = call(c.fresh(), c.example), call(c.model, c.example)
    shape = torch.utils._pytree.tree_structure
    assert shape(got) == shape(wanted)


@every_network
def test_gradients_equal_the_modules(name):
    c = captured(name)
    module, model = c.fresh(), c.model.copy()
    for network in (module, model):
        sum(
            (o.double() * torch.linspace(-1, 2, o.numel()).reshape(o.shape)).sum()
            for o in flat(call(network, c.example))
        ).backward()
    mine = dict(model.named_parameters())
    for parameter, wanted in module.named_parameters():
        got = mine[parameter].grad if parameter in mine else None
        if wanted.grad is None:
            assert got is None
        else:
            torch.testing.assert_close(got, wanted.grad, rtol=1e-4, atol=1e-6)  # sums of many terms


@pytest.mark.parametrize("name", sorted(ZOO.keys() - LEFT_OUT))
def test_training_mode_equals_the_modules_dropout_and_running_statistics_included(name):
    c = captured(name)
    module, model = c.fresh().train(), c.model.copy().train()
    inputs = resized(c.example, 3)
    results = []
    for network in (module, model):
        torch.manual_seed(5)
        results.append([flat(call(network, inputs)) for _ in range(2)][-1])
    assert_same(results[1], results[0])
    mine = model.named_tensors()
    for name_, buffer in module.named_buffers():
        if name_ in mine:
            torch.testing.assert_close(mine[name_], buffer, **CLOSE)


@pytest.mark.parametrize("name", BATCH_NORM)
def test_training_moves_running_statistics(name):
    c = captured(name)
    model = c.model.copy().train()
    before = model.copy().named_tensors()
    call(model, resized(c.example, 3))
    moved = [n for n, t in model.named_tensors().items() if n.endswith("running_mean") and not t.equal(before[n])]
    assert moved


@every_network
def test_eval_mode_comes_back_after_training_mode(name):
    c = captured(name)
    with torch.no_grad():
        wanted = flat(call(c.model, c.example))
        got = flat(call(c.model.copy().train().eval(), c.example))
    assert all(g.equal(w) for g, w in zip(got, wanted, strict=True))


@every_network
def test_the_module_stays_as_it_was(name):
    c = captured(name)
    after = state_of(c.module)
    assert after["training"] == c.before["training"]
    assert any(after["training"])
    assert after["kinds"] == c.before["kinds"]
    assert after["tensors"].keys() == c.before["tensors"].keys()
    assert all(t.equal(c.before["tensors"][n]) for n, t in after["tensors"].items())


def test_capturing_leaves_the_random_state_alone():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    before = torch.get_rng_state()
    from_module(module, torch.zeros(2, 3))
    assert torch.get_rng_state().equal(before)


@every_network
def test_no_memory_is_shared_with_the_module(name):
    c = captured(name)
    own = {t.data_ptr() for t in c.model.named_tensors().values() if t.numel()}
    assert own.isdisjoint({t.data_ptr() for t in (*c.module.parameters(), *c.module.buffers()) if t.numel()})


@every_network
def test_parameters_keep_their_names_and_trainability(name):
    c = captured(name)
    theirs = {n: p.requires_grad for n, p in c.module.named_parameters()}
    assert {n: p.requires_grad for n, p in c.model.named_parameters()} == theirs


@every_network
def test_layer_names_are_unique(name):
    nodes = [n for n in captured(name).model.nodes if "layer" in n.meta]
    assert len({n.meta["layer"] for n in nodes}) == len(nodes) > 0


@every_network
def test_the_graph_writes_nothing_in_place(name):
    for node in captured(name).model.nodes:
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable


@every_network
def test_notes_tell_what_was_lost_and_nothing_else(name):
    notes = captured(name).model.notes
    expected = {"stochastic_depth": "only train mode runs it: rand", "static_batch": "'batch' is fixed"}
    if name in expected:
        assert len(notes) == 1
        assert expected[name] in notes[0]
    else:
        assert notes == ()


def test_example_inputs_of_batch_one_still_give_a_dynamic_batch():
    model = from_module(nn.Linear(3, 2), torch.zeros(1, 3))
    assert model.inputs[0].shape == ("batch", 3)
    assert model(torch.zeros(5, 3)).shape == (5, 2)
