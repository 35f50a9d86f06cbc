"""A quantized Model in another target's terms: the same values, or less quantization and a list of what went."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.model.numerics import FusionGroup, common
from packlight.model.operators import packet
from packlight.targets import adapted, get
from packlight.testing.examples import models, random_task

ONNX = get("onnxruntime").numerics
SIGNED = replace(ONNX, activation=replace(ONNX.activation, signed=True))
NO_CONVOLUTION = replace(ONNX, groups=tuple(g for g in ONNX.groups if "conv2d" not in g.operators))
NOTHING = replace(
    ONNX, groups=(), dynamic=frozenset(), stored=frozenset(), blocked=frozenset(), floats=(), tables=False
)


def answers(model):
    inputs = model.example_inputs(batch=8)
    with torch.no_grad():
        return model.eval().flat(*inputs)[0]


def operators(model):
    return {packet(n) for n in model.nodes}


@pytest.fixture(scope="module")
def convolutions():
    model = models()[0]
    return pl.quantize(model, random_task(model))


def test_a_model_in_its_own_targets_terms_is_left_alone(convolutions):
    same, dropped = adapted(convolutions, ONNX)
    assert same is convolutions and not dropped


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_change_of_sign_changes_no_value(mode):
    model = models()[0]
    small = pl.quantize(model, random_task(model), mode=mode)
    signed, dropped = adapted(small, SIGNED)
    assert not dropped
    assert torch.equal(answers(signed), answers(small))
    kinds = {n.args[-1] for n in signed.nodes if packet(n) in ("quantize_per_tensor", "dequantize_per_tensor")}
    assert kinds == {torch.int8}
    again, _ = adapted(signed, ONNX)
    assert torch.equal(answers(again), answers(small))
    assert {n.args[-1] for n in again.nodes if packet(n) == "quantize_per_tensor"} == {torch.uint8}


def test_what_a_target_does_not_compute_becomes_float_and_is_listed(convolutions):
    fewer, dropped = adapted(convolutions, NO_CONVOLUTION)
    assert any("conv2d" in line and "stem" in line for line in dropped)
    convs = [n for n in fewer.nodes if packet(n) == "conv2d"]
    assert convs and all(n.args[1].op == "get_attr" for n in convs)
    assert {packet(n.args[1]) for n in fewer.nodes if packet(n) == "linear"} == {"dequantize_per_channel"}
    off = answers(fewer) - answers(convolutions)
    assert 0 < off.norm() < 0.05 * answers(convolutions).norm()


def test_a_target_without_low_precision_gets_a_float_network(convolutions):
    whole, dropped = adapted(convolutions, NOTHING)
    assert not any("quantize" in name for name in operators(whole))
    assert len(dropped) == 4, "three layers, and the activations"


@pytest.mark.parametrize("how", ["fp16", "fp8-e4m3", "tables", "blocks"])
def test_weights_in_forms_that_a_target_lacks_become_what_they_stand_for(how):
    torch.manual_seed(0)
    model = pl.load(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.zeros(2, 64))
    if how == "tables":
        small = pl.share_weights(model, bits=3)
    elif how == "blocks":
        small = pl.quantize(model, mode="weights", weights=4)
    else:
        small = pl.quantize(model, mode="weights", weights=how)
    whole, dropped = adapted(small, NOTHING)
    assert dropped
    assert operators(whole) <= {"linear", "relu", ""}
    torch.testing.assert_close(answers(whole), answers(small), rtol=0, atol=0)
    assert not torch.allclose(answers(whole), answers(model), rtol=1e-6, atol=1e-6)


def test_zero_points_that_a_target_has_no_place_for_are_refused(convolutions):
    middle = replace(ONNX, activation=replace(ONNX.activation, signed=True, symmetric=True))
    with pytest.raises(pl.PacklightError, match="quantize the float network for this target"):
        adapted(convolutions, middle)


def test_a_set_of_targets_is_what_all_of_them_compute():
    other = replace(
        SIGNED,
        groups=(FusionGroup(("conv2d",), ("relu",), weighted=True), FusionGroup(("add",), (), output=True)),
        transparent=frozenset({"view"}), channel_multiple=12, shared=frozenset({"cat"}),
    )  # fmt: skip
    both = common([ONNX, other])
    assert {o for g in both.groups for o in g.operators} == {"conv2d", "add"}
    assert both.group("conv2d").followers == ("relu",) and both.group("add").followers == ()
    assert both.transparent == {"view"} and both.channel_multiple == 48 and both.shared == {"cat"}
    assert common([ONNX]) is ONNX


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), 9 * self.b(x)], 1))


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_shared_operator_joins_has_one_scale(shared):
    from packlight.passes.quantize import quantize

    torch.manual_seed(0)
    model = pl.load(Joined().eval(), torch.randn(2, 3, 8, 8))
    numerics = replace(ONNX, shared=frozenset({"cat"}) if shared else frozenset())
    small = quantize(model, random_task(model), numerics)
    (join,) = (n for n in small.nodes if packet(n) == "cat")
    (after,) = (u for u in join.users if packet(u) == "quantize_per_tensor")
    scales = {n.args[1] for n in join.args[0] if packet(n) == "dequantize_per_tensor"}
    assert (scales | {after.args[1]} == {after.args[1]}) == shared
    assert float((answers(small) - answers(model)).norm() / answers(model).norm()) < 0.1
