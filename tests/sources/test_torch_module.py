"""Capturing modules: how they may be called, which sizes the capture holds for, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import packlight as pl
from packlight.errors import PacklightError
from packlight.model import statistics
from packlight.sources import from_module
from packlight.sources.flatten import flatten


class Call(nn.Module):
    """A module whose forward is a plain function."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.forward = function.__get__(self)


# how it may be called


def test_star_arguments_are_named_by_position():
    def forward(self, *xs):
        return sum(xs)

    model = from_module(Call(forward), (torch.ones(2, 3), torch.ones(2, 3)))
    assert [s.name for s in model.inputs] == ["input_0", "input_1"]
    assert model(torch.ones(4, 3), torch.ones(4, 3)).equal(torch.full((4, 3), 2.0))


def test_nested_arguments_are_named_by_their_path():
    def forward(self, xs, more):
        return xs[0] - xs[1] * more["a"]

    example = ([torch.ones(2, 3), torch.ones(2, 3)], {"a": torch.ones(2, 3)})
    model = from_module(Call(forward), example)
    assert [s.name for s in model.inputs] == ["xs_0", "xs_1", "more_a"]
    assert model(xs_0=torch.ones(1, 3), xs_1=torch.ones(1, 3), more_a=torch.ones(1, 3) * 3).sum() == -6


def test_optional_arguments_that_are_not_given_take_their_defaults():
    def forward(self, x, scale=2.0, y=None):
        return x * scale if y is None else y

    assert from_module(Call(forward), torch.ones(2, 3))(torch.ones(1, 3)).sum() == 6


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (3, "must be a tensor, a tuple or a dict of tensors, got int"),
        ("x", "got str"),
        ((torch.ones(2, 3), 3), "example input 'y' must be a tensor, got int"),
        ((torch.ones(2, 3), None), "example input 'y' must be a tensor, got NoneType"),
        ((torch.ones(2, 3),) * 3, "too many positional arguments"),
        ({"z": torch.ones(2, 3)}, "missing a required argument: 'x'"),
        (torch.ones(2, 5), "cannot be exported"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_wrong_example_inputs_get_one_line(example, reason):
    def forward(self, x, y=None):
        return self.linear(x)

    with pytest.raises(PacklightError, match=reason) as error:
        from_module(Call(forward), example)
    assert "\n" not in str(error.value)


def test_something_that_is_no_module_is_refused():
    with pytest.raises(PacklightError, match=r"must be a torch\.nn\.Module, got function"):
        from_module(lambda x: x, torch.ones(2, 3))


def test_the_line_of_the_users_code_that_fails_is_named():
    def forward(self, x):
        return self.linear(x).view(7, 7)

    with pytest.raises(PacklightError, match=rf"Call cannot be exported: .*at {__file__}:\d+"):
        from_module(Call(forward), torch.ones(2, 3))


def test_a_failing_export_prints_nothing(capfd):
    def forward(self, x):
        return x if x.sum() > 0 else -x

    with pytest.raises(PacklightError, match="branches on the values"):
        from_module(Call(forward), torch.ones(2, 3))
    assert capfd.readouterr() == ("", "")


# sizes


def test_inputs_that_disagree_on_axis_zero_are_static():
    model = from_module(nn.Bilinear(3, 4, 5), (torch.ones(2, 3), torch.ones(2, 4)))
    assert model.dims == {"batch": 2}

    def forward(self, x, table):
        return x @ table

    assert from_module(Call(forward), (torch.ones(2, 3), torch.ones(3, 4))).dims == {}


def test_dynamic_dimensions_carry_the_names_that_were_given():
    net = nn.Sequential(nn.Conv1d(1, 4, 3, stride=2), nn.ReLU())
    model = from_module(net, torch.randn(2, 1, 17), dynamic={"input": {0: "clips", 2: "samples"}})
    assert model.inputs[0].shape == ("clips", 1, "samples")
    assert model.outputs[0].shape[:2] == ("clips", 4)
    assert "samples" in str(model.outputs[0].shape[2])
    assert model(torch.randn(3, 1, 40)).shape == (3, 4, 19)


def test_an_output_size_that_follows_from_the_batch_is_written_with_its_name():
    def forward(self, x):
        y = self.linear(x)
        return torch.cat([y, y]), y.flatten(), y.mean(0)

    model = from_module(Call(forward), torch.ones(2, 3))
    assert [s.shape for s in model.outputs] == [("2*batch", 3), ("3*batch",), (3,)]


def test_empty_dynamic_makes_every_size_static():
    model = from_module(nn.Linear(3, 2), torch.ones(4, 3), dynamic={})
    assert model.inputs[0].shape == (4, 3)
    with pytest.raises(PacklightError, match=r"got shape \[5, 3\], the model takes float32\[4, 3\]"):
        model(torch.ones(5, 3))


@pytest.mark.parametrize(
    ("dynamic", "reason"),
    [
        ({"nope": {0: "batch"}}, r"dynamic names inputs \['nope'\], the network takes \['input'\]"),
        ({"input": {2: "batch"}}, "has no axis 2 to call 'batch'"),
        ({"input": {0: "a b"}}, "no axis 0 to call 'a b'"),
    ],
    ids=["unknown input", "unknown axis", "odd name"],
)
def test_wrong_dynamic_dimensions_get_one_line(dynamic, reason):
    with pytest.raises(PacklightError, match=reason):
        from_module(nn.Linear(3, 2), torch.ones(4, 3), dynamic=dynamic)


def test_one_dimension_name_with_two_sizes_is_refused():
    def forward(self, x, y):
        return x.sum() + y.sum()

    with pytest.raises(PacklightError, match="dimension 'n' is 2 and 3 in the example inputs"):
        from_module(Call(forward), (torch.ones(2), torch.ones(3)), dynamic={"x": {0: "n"}, "y": {0: "n"}})


def test_a_branch_on_the_batch_limits_the_batch():
    def forward(self, x):
        return self.linear(x) * 2 if x.shape[0] > 2 else x

    model = from_module(Call(forward), torch.ones(4, 3))
    assert model.limits["batch"][0] == 3
    assert model(torch.ones(3, 3)).shape == (3, 3)
    with pytest.raises(PacklightError, match="dimension 'batch' is 2, Call takes 3 and more"):
        model(torch.ones(2, 3))


def test_a_branch_on_a_batch_of_one_is_found_though_export_never_looks_there():
    def forward(self, x):
        return self.linear(x) if x.shape[0] == 1 else x

    model = from_module(Call(forward), torch.ones(4, 3))
    with pytest.raises(PacklightError, match="takes 2 and more"):
        model(torch.ones(1, 3))


def test_a_branch_on_an_even_batch_fixes_the_batch():
    def forward(self, x):
        return self.linear(x) if x.shape[0] % 2 == 0 else x

    model = from_module(Call(forward), torch.ones(4, 3))
    assert model.inputs[0].shape == (4, 3)
    assert model.notes == ("dimension 'batch' is fixed: at other sizes the network does something else",)


def test_a_batch_of_one_in_the_code_fixes_the_batch():
    def forward(self, x):
        return self.linear(x.view(1, 3))

    model = from_module(Call(forward), torch.ones(1, 3))
    assert model.inputs[0].shape == (1, 3)
    assert "every size is fixed" in model.notes[0]


def test_a_size_that_depends_on_the_data_is_refused():
    def forward(self, x):
        return x[x > 0]

    with pytest.raises(PacklightError, match="a size depends on the values of a tensor"):
        from_module(Call(forward), torch.randn(4, 3))


def test_integer_outputs_must_match_to_the_last(monkeypatch):
    def forward(self, x):
        return self.linear(x).argmax(1)

    from_module(Call(forward), torch.randn(4, 3))
    monkeypatch.setattr("packlight.sources.torch_module.flatten", _off_by_one)
    with pytest.raises(PacklightError, match="Call was captured wrongly: 4 of 4 values of an output differ"):
        from_module(Call(forward), torch.randn(4, 3))


def test_a_wrong_capture_is_caught_by_its_proof(monkeypatch):
    monkeypatch.setattr("packlight.sources.torch_module.flatten", _off_by_one)
    with pytest.raises(PacklightError, match="Linear was captured wrongly: 20 of 20 values of an output differ"):
        from_module(nn.Linear(3, 5), torch.randn(4, 3))


def _off_by_one(program):
    """A capture with a mistake in it."""
    module, notes = flatten(program)
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        output.args = (tuple(module.graph.call_function(torch.ops.aten.add.Tensor, (n, 1)) for n in output.args[0]),)
    module.recompile()
    return module, notes


# outputs


@pytest.mark.parametrize("extra", [3, "x", True])
def test_outputs_that_are_no_tensors_are_refused(extra):
    def forward(self, x):
        return self.linear(x), extra

    with pytest.raises(PacklightError, match="return tensors only"):
        from_module(Call(forward), torch.ones(2, 3))


def test_a_size_beside_the_outputs_is_refused():
    def forward(self, x):
        return self.linear(x), x.shape[0]

    with pytest.raises(PacklightError, match="returns a size beside its tensors"):
        from_module(Call(forward), torch.ones(2, 3))


def test_an_input_and_a_parameter_may_be_outputs():
    def forward(self, x):
        return x, self.linear.weight, self.linear(x)

    module = Call(forward)
    model = from_module(module, torch.ones(2, 3))
    x = torch.randn(3, 3)
    assert model(x)[0].equal(x)
    assert model(x)[1].equal(module.linear.weight)
    assert statistics(model).params == 12


# training


def test_a_constant_that_training_changes_is_reported():
    def forward(self, x):
        return self.linear(x) * (3 if self.training else 2)

    model = from_module(Call(forward), torch.ones(2, 3))
    assert model.notes == (
        "the network's forward: mul uses 2 in eval mode and 3 in train mode; the former is kept in both",
    )


def test_a_network_that_can_only_be_captured_in_eval_mode_says_so():
    model = from_module(nn.BatchNorm1d(3, momentum=None), torch.randn(4, 3))
    assert "train mode cannot be captured" in model.notes[0]


def test_an_autocast_region_is_computed_in_full_precision_and_says_so():
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x).float()

    module = Call(forward)
    model = from_module(module, torch.randn(4, 3))
    assert model.notes == ("an autocast region (torch.bfloat16) is computed in full precision",)
    x = torch.randn(2, 3)
    torch.testing.assert_close(model(x), module.linear(x), rtol=0, atol=0)


# tensors and names


@pytest.mark.parametrize("name", ["graph", "code", "meta", "class", "print_readable"])
def test_a_layer_whose_name_torchs_graphs_use_gets_one_like_it_and_says_so(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(name, nn.Linear(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self._modules[name](x)

    model = from_module(Net(), torch.ones(2, 3))
    assert set(model.named_tensors()) == {f"{name}_.weight", f"{name}_.bias"}
    assert f"'{name}.weight' is called '{name}_.weight' here" in model.notes
    assert list(model.layers()) == [name]


@pytest.mark.parametrize("name", ["a b", "a-b", "x/y", "é", 'a"b'])
def test_odd_layer_names_come_back_from_a_file(name, tmp_path):
    net = nn.Sequential()
    net.add_module(name, nn.Linear(3, 3))
    model = from_module(net, torch.ones(2, 3))
    back = pl.Model.load(model.save(tmp_path / "m.plm"))
    assert list(back.layers()) == [name]
    assert back(torch.ones(1, 3)).equal(model(torch.ones(1, 3)))


def test_frozen_parameters_stay_frozen():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[0].requires_grad_(False)
    model = from_module(net, torch.ones(2, 3))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floats_are_captured(dtype):
    net = nn.Linear(3, 3).to(dtype)
    model = from_module(net, torch.ones(2, 3, dtype=dtype))
    x = torch.randn(4, 3, dtype=dtype)
    assert model(x).equal(net(x))
    assert model.inputs[0].dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    net = nn.Sequential(nn.Linear(3, 3))
    net[0].weight.data[0, 1] = bad
    with pytest.raises(PacklightError, match=r"1 of 9 values of '0\.weight' are NaN or infinite"):
        from_module(net, torch.ones(2, 3))


def test_an_infinite_mask_is_fine():
    def forward(self, x):
        return (self.linear(x) + self.mask).softmax(-1)

    net = Call(forward)
    net.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))
    assert from_module(net, torch.ones(2, 3))(torch.ones(1, 3))[0, 1] == 0


def test_an_operator_outside_the_table_is_reported_and_cannot_be_saved(tmp_path):
    @torch.library.custom_op("packlight_tests::relu", mutates_args=())
    def relu(x: Tensor) -> Tensor:
        return x.relu()

    relu.register_fake(torch.empty_like)

    def forward(self, x):
        return torch.ops.packlight_tests.relu(self.linear(x))

    model = from_module(Call(forward), torch.ones(2, 3))
    assert "packlight_tests.relu.default is not in packlight's table" in model.notes[0]
    with pytest.raises(PacklightError, match="so it cannot be written to a file"):
        model.save(tmp_path / "m.plm")


def test_a_long_recurrent_network_is_captured_in_a_moment():
    # torch unrolls it to find its shape: 23 s for this one. The limit leaves room for a busy machine.
    from time import perf_counter

    started = perf_counter()
    model = from_module(nn.LSTM(4, 8, batch_first=True), torch.randn(2, 200, 4))
    assert perf_counter() - started < 5
    assert [s.shape for s in model.outputs] == [("batch", 200, 8), (1, "batch", 8), (1, "batch", 8)]


def test_torchs_own_shape_rules_are_back_afterwards():
    kernels = dict(torch.ops.aten.lstm.input.py_kernels)
    from_module(nn.LSTM(4, 8), torch.randn(3, 2, 4), dynamic={})
    assert torch.ops.aten.lstm.input.py_kernels == kernels


def test_layers_are_listed_in_graph_order():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = from_module(net, torch.ones(2, 3))
    assert list(model.layers()) == ["0", "1", "2"]
    nodes = list(model.graph_module.graph.nodes)
    assert all(nodes.index(a) < nodes.index(b) for a, b in pairwise(model.layers().values()))
