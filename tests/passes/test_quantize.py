"""Post-training quantization: placement and the pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

import packlight as pl
from packlight.errors import PacklightError
from packlight.model.numerics import Format, FusionGroup, Numerics
from packlight.model.operators import kind, packet
from packlight.passes.quantize import Quantization, quantize
from packlight.passes.quantize.placement import place
from packlight.targets import get
from packlight.task import Task

NUMERICS = get("onnxruntime").numerics


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(relu(self.stem(x)), 2)
        x = relu(self.block(x) + x)
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def model() -> pl.Model:
    torch.manual_seed(0)
    return pl.load(Residual(), torch.zeros(2, 3, 8, 8))


@pytest.fixture(scope="module")
def task() -> Task:
    images = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    return Task(calibration=images)


def quantized_layers(model: pl.Model) -> set[str]:
    """Layers whose value is quantized right after them (activations only)."""
    return {model.layer(n.args[0]) for n in model.nodes if packet(n) == "quantize_per_tensor"}  # type: ignore[arg-type]


def test_pairs_stand_around_kernels_and_never_inside_one(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS)
    inner = {"stem.0", "add", "stem.1"}
    assert quantized_layers(small) == {"x", "relu", "max_pool2d", "block", "relu_1", "pool", "flatten"}
    assert not quantized_layers(small) & inner


def test_max_pooling_hands_on_its_input_scale(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS)
    scales = {model.layer(n.args[0]): n.args[1:3] for n in small.nodes if packet(n) == "quantize_per_tensor"}  # type: ignore[arg-type]
    assert scales["max_pool2d"] == scales["relu"] and scales["flatten"] == scales["pool"]
    assert scales["block"] != scales["relu"]
    assert scales["relu"][1] == 0, "a ReLU's range starts at 0, so that the runtime can fuse it"


def test_the_quantized_model_stays_close_to_the_float_one(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS)
    x = torch.from_numpy(task.calibration.inputs[0])
    wanted, got = model(x).detach(), small(x).detach()
    error = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    # 8 bits a layer over four layers: about half a percent of the largest value each
    assert 1e-4 < error < 0.03


def test_weights_stay_float_masters_and_the_given_model_is_untouched(model: pl.Model, task: Task) -> None:
    before = {n: t.clone() for n, t in model.named_tensors().items()}
    small = quantize(model, task, NUMERICS)
    assert all(torch.equal(before[n], t) for n, t in model.named_tensors().items())
    assert small.named_tensors()["block.weight"].dtype == torch.float32
    assert torch.equal(small.named_tensors()["block.weight"], before["block.weight"])
    assert pl.statistics(small).weight_bytes < 0.5 * pl.statistics(model).weight_bytes


def test_biases_are_whole_units_of_the_int32_accumulator(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS)
    conv = small.layers()["block"]
    unit = conv.args[0].args[1] * small.named_tensors()["block.weight_scale"].double()  # type: ignore[union-attr]
    steps = small.named_tensors()["block.bias"].detach().double() / unit
    # float32 holds a bias of some thousand steps to a few thousandths of a step
    assert torch.allclose(steps, steps.round(), atol=0.01)
    before = model.named_tensors()["block.bias"]
    assert not torch.allclose(before.detach().double() / unit, steps.round(), atol=0.01)


def test_quantizing_twice_with_one_seedless_recipe_gives_the_same_bytes(model: pl.Model, task: Task) -> None:
    first, second = (quantize(model, task, NUMERICS) for _ in range(2))
    x = model.example_inputs(batch=3)[0]
    assert torch.equal(first(x), second(x))
    assert first.lineage == second.lineage and first.lineage[-1].name == "quantize"


def test_an_excluded_layer_stays_float_and_is_reported(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS, Quantization(exclude=("block",)))
    conv = small.layers()["block"]
    assert all(kind(a) != "quantize" for a in conv.all_input_nodes)
    assert "block stays in float: excluded by name" in small.notes


def test_an_exclusion_that_matches_nothing_is_an_error_with_a_suggestion(model: pl.Model, task: Task) -> None:
    with pytest.raises(PacklightError, match="no layer matches 'blok'; did you mean block"):
        quantize(model, task, NUMERICS, Quantization(exclude=("blok",)))


def test_a_quantized_model_is_refused(model: pl.Model, task: Task) -> None:
    small = quantize(model, task, NUMERICS)
    with pytest.raises(PacklightError, match="quantized already"):
        quantize(small, task, NUMERICS)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param(np.zeros((0, 3, 8, 8), np.float32), "empty", id="empty"),
        pytest.param(np.zeros((4, 3, 9, 8), np.float32), "the model takes float32", id="wrong shape"),
        pytest.param(np.full((4, 3, 8, 8), 3e38, np.float32), "overflows on this data", id="overflow"),
    ],
)
def test_bad_calibration_data_is_one_clear_error(model: pl.Model, images: np.ndarray, message: str) -> None:
    with pytest.raises(PacklightError, match=message):
        quantize(model, Task(calibration=images), NUMERICS)


def test_a_network_with_a_fixed_batch_is_calibrated_with_that_batch() -> None:
    torch.manual_seed(0)
    net, seen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), []
    fixed = pl.load(net, torch.zeros(4, 3, 8, 8), dynamic={})
    data = Task(calibration=np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32))
    small = quantize(fixed, data, NUMERICS, on_batch=lambda: seen.append(1))
    assert len(seen) == 2, "ten samples are two whole batches of four"
    assert small.example_inputs()[0].shape == (4, 3, 8, 8)
    with pytest.raises(PacklightError, match=r"got shape \[3, 3, 8, 8\], the model takes float32\[4, 3, 8, 8\]"):
        quantize(fixed, Task(calibration=data.calibration.inputs[0][:3]), NUMERICS)


def test_constant_zero_calibration_data_still_gives_a_working_model(model: pl.Model) -> None:
    small = quantize(model, Task(calibration=np.zeros((4, 3, 8, 8), np.float32)), NUMERICS)
    assert torch.isfinite(small(torch.zeros(2, 3, 8, 8))).all()


def test_a_target_without_fitting_kernels_says_so(model: pl.Model, task: Task) -> None:
    nothing = Numerics(Format(8, signed=False, symmetric=False), Format(8), groups=())
    with pytest.raises(PacklightError, match="nothing in Residual can be quantized"):
        quantize(model, task, nothing)


def test_a_saved_quantized_model_computes_the_same(model: pl.Model, task: Task, tmp_path) -> None:
    small = quantize(model, task, NUMERICS)
    again = pl.Model.load(small.save(tmp_path / "small.plm"))
    x = model.example_inputs(batch=5)[0]
    assert torch.equal(small(x), again(x))


class Gated(nn.Module):
    """Every operand kind that must not be taken for an activation: scalars, constants, computed weights, ties."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.tied = nn.Linear(8, 8)
        self.position = nn.Parameter(torch.randn(8, 1, 1))
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = (self.conv(x) + self.position) * 0.5 + 1
        y = y.mean((2, 3))
        return self.tied(self.tied(y)) + nn.functional.linear(y, torch.tanh(self.mix))


def test_constants_ties_and_computed_weights_stay_float_with_a_reason() -> None:
    model = pl.load(Gated(), torch.zeros(2, 3, 4, 4))
    placement = place(model.copy(), NUMERICS)
    assert {k.first.target for k in placement.kernels} == {torch.ops.aten.conv2d.default}
    assert set(placement.kept_float.values()) == {
        "its weight is shared with another layer",
        "its weight is computed, not constant",
    }


def test_a_transformers_residual_stream_is_not_forced_into_int8() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = pl.load(layer.eval(), torch.zeros(2, 5, 16))
    placement = place(model.copy(), NUMERICS)
    assert {packet(k.first) for k in placement.kernels} == {"linear"}


def test_a_value_read_by_float_and_low_precision_operators_serves_both() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.first(x)
            return self.second(y), torch.sin(y)

    model = pl.load(Forked(), torch.zeros(2, 3, 4, 4))
    small = quantize(
        model, Task(calibration=np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)), NUMERICS
    )
    sine = small.layers()["sin"]
    assert packet(sine.args[0]) == "dequantize_per_tensor", "a convolution writes low precision only"  # type: ignore[arg-type]


def test_groups_are_values_a_plugin_can_declare(task: Task, model: pl.Model) -> None:
    only_linear = Numerics(
        NUMERICS.activation, NUMERICS.weight, (FusionGroup(("linear",), weighted=True, output=False),)
    )
    small = quantize(model, task, only_linear)
    assert quantized_layers(small) == {"flatten"}
