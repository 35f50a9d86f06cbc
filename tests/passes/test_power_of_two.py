"""Scales that are powers of two, in the Model and in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import digits, untrained

import packlight as pl
from packlight.errors import PacklightError
from packlight.measure.parity import difference
from packlight.measure.quality import torch_runner
from packlight.model.numerics import Format
from packlight.model.operators import kind, packet
from packlight.passes.quantize.calibrate import Histogram, grid_of
from packlight.passes.quantize.groups import block_grid
from packlight.passes.quantize.ranges import fake_quantize, next_power, room_for_bias, weight_scales
from packlight.targets import Runner

S4, U8 = Format(4, per_channel=True, power_of_two=True), Format(8, signed=False, symmetric=False, power_of_two=True)


def is_power(values: object) -> bool:
    return bool((np.frexp(np.asarray(values, np.float64))[0] == 0.5).all())


@pytest.fixture(scope="module")
def net() -> pl.Model:
    return untrained()


def test_the_next_power_is_exact_at_powers_and_between() -> None:
    given = torch.tensor([1.0, 0.26, 0.25, 3.0, 2.0**-126, 1e-12])
    assert next_power(given).tolist() == [1.0, 0.5, 0.25, 4.0, 2.0**-126, 2.0**-39]


def test_the_power_of_a_channel_is_the_best_there_is() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 64) * torch.logspace(-3, 2, 40)[:, None]
    scales = weight_scales(weight, S4)

    def error(factor: float) -> torch.Tensor:
        return (fake_quantize(weight, factor * scales[:, None], torch.zeros(()), S4) - weight).square().sum(1)

    assert is_power(scales)
    assert all((error(1) <= error(f)).all() for f in (0.25, 0.5, 2.0, 4.0))
    assert not is_power(weight_scales(weight, Format(4, per_channel=True)))
    assert is_power(block_grid(weight, Format(4, symmetric=False, power_of_two=True)).scale)


def test_the_power_of_a_value_clips_where_that_pays_and_not_with_minmax() -> None:
    torch.manual_seed(0)
    histogram = Histogram()
    histogram.add(torch.cat([torch.rand(10_000), torch.tensor([1.1, 4.0])]))
    fine, whole = (grid_of(histogram, how, U8) for how in ("mse", "minmax"))
    assert is_power(fine.scale) and is_power(whole.scale) and float(whole.scale) * 255 >= 4.0
    assert float(fine.scale) * 255 >= 1.0 and float(fine.scale) <= float(whole.scale)
    assert int(fine.zero_point) == 0


def test_a_bias_that_needs_room_gets_the_next_power() -> None:
    raised = room_for_bias(torch.tensor([2.0**-60, 0.25]), torch.tensor([3.0, 1.0]), 0.5, power_of_two=True)
    assert is_power(raised) and float(raised[1]) == 0.25 and 3.0 / (0.5 * float(raised[0])) <= 2**30


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_every_scale_in_the_model_is_a_power_and_biases_are_whole_units(net: pl.Model, rounding: str) -> None:
    small = pl.quantize(net, digits(), scales="power-of-two", rounding=rounding)
    per_tensor = [n.args[1] for n in small.nodes if packet(n) == "quantize_per_tensor"]
    tensors = {name: t for name, t in small.named_tensors().items() if name.endswith("_scale")}
    assert len(per_tensor) > 3 and is_power(per_tensor) and tensors
    assert all(is_power(t) for t in tensors.values())
    for node in small.nodes:
        if kind(node) == "contraction" and len(node.args) > 2:
            data, weight, bias = node.args[:3]
            unit = data.args[1] * small.tensor(weight.args[1]).double()  # type: ignore[union-attr, arg-type]
            steps = small.tensor(bias).detach().double() / unit  # type: ignore[arg-type]
            assert torch.equal(steps, steps.round()), "exactly: a power of two only moves the exponent"


def test_learned_rounding_leaves_the_scales_powers(net: pl.Model) -> None:
    from packlight.passes.quantize import Rounding

    small = pl.quantize(net, digits(), scales="power-of-two", weights=4, rounding=Rounding(steps=3), samples=64)
    assert is_power([n.args[1] for n in small.nodes if packet(n) == "quantize_per_tensor"])


def test_every_scale_in_the_file_is_a_power(net: pl.Model, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'packlight[onnxruntime]'")
    small = pl.quantize(net, digits(), scales="power-of-two")
    artifact = pl.export(small, tmp_path / "small.onnx")
    graph = onnx.load(artifact.path).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    used = [n.input[1] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(set(used)) > 3 and all(is_power(tensors[name]) for name in used)
    x = digits().test.inputs[0][:64]
    with Runner(artifact) as runner:
        assert difference(runner(x)[0], torch_runner(small)(x)[0]).within(5e-3)


def test_the_price_is_less_than_a_bit(net: pl.Model) -> None:
    x = torch.from_numpy(digits().test.inputs[0][:128])
    wanted = net.eval().flat(x)[0].detach().numpy()

    def error(**options: object) -> float:
        made = pl.quantize(net, digits(), **options)  # type: ignore[arg-type]
        return difference(made.flat(x)[0].detach().numpy(), wanted).error

    assert error() < error(scales="power-of-two") < error(weights=7, activations=7, ends=7)


def test_what_cannot_be_a_power_is_refused(net: pl.Model) -> None:
    with pytest.raises(PacklightError, match="choose float or power-of-two"):
        pl.quantize(net, digits(), scales="log")
    with pytest.raises(PacklightError, match="choose mode static or weights"):
        pl.quantize(net, digits(), scales="power-of-two", mode="dynamic")
