"""Rate–distortion quantization: multiples of a step, errors made good, and fewer bytes for the same harm."""

import pytest
import torch
from small_tasks import digits, trained
from torch import nn

import packlight as pl
from packlight.codec import load_packed, read_packed, save_packed
from packlight.codec.forms import Kind
from packlight.cosines import Waves
from packlight.passes.batches import batches_of
from packlight.passes.fold import fold
from packlight.passes.rate_distortion import RateDistortion, curvature
from packlight.passes.rate_distortion.rounding import rates_of, rounded, solver_of
from packlight.testing import PassContract
from packlight.testing.examples import models, random_task


def cheapest(model, price=1e-7):
    model = fold(model).eval()
    batches = [model.example_inputs(seed) for seed in range(8)]
    return RateDistortion(model, curvature(model, batches, classes=False)).at(price)


class TestContract(PassContract):
    largest_change = 0.2

    def apply(self, model):
        return cheapest(model)


def moments(rows):
    """Second moments of rows of features, a constant 1 as the last."""
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    return rows.T @ rows / len(rows)


def test_without_a_price_worth_speaking_of_a_weight_goes_to_the_nearest_level():
    torch.manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64)
    levels, _ = rounded(weight, solver_of(torch.eye(7, dtype=torch.float64)), torch.ones(4), 0.1, 1e-12)
    assert torch.equal(levels, (weight / 0.1).round())
    assert not torch.equal(levels, (weight / 0.101).round())  # a step that is 1 % off would show


def test_a_dear_price_leaves_zeros_only_and_hands_their_mean_to_the_bias():
    rows = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    weight = torch.tensor([[0.6, 0.2, 0.1, 0.2, 0.1]] * 3, dtype=torch.float64)
    levels, left = rounded(weight, solver_of(moments(rows)), torch.ones(3), 0.5, 1e6)
    assert not levels.any()
    assert left.tolist() == pytest.approx([float((rows @ weight[0]).mean())] * 3, rel=0.1)


def test_later_columns_make_good_what_earlier_ones_lost():
    torch.manual_seed(0)
    base = torch.randn(800, 4, dtype=torch.float64)
    rows = torch.cat([base, base + 0.1 * torch.randn(800, 4, dtype=torch.float64)], 1)  # each feature stands twice
    weight = torch.randn(16, 8, dtype=torch.float64)
    levels, left = rounded(weight, solver_of(moments(rows)), torch.ones(16), 0.5, 1e-12)
    wanted = rows @ weight.T
    near = rows @ ((weight / 0.5).round() * 0.5).T
    made = rows @ (levels * 0.5).T + left
    assert (made - wanted).square().mean() < 0.6 * (near - wanted).square().mean()


def test_bits_are_those_of_the_levels_seen():
    levels = torch.zeros(60, 60, dtype=torch.float64)
    levels[::2] = 1  # rows are all full or all empty
    rates = rates_of(levels)
    ones = rates.of(torch.ones(1, 60, dtype=torch.float64), 0)[0]
    assert ones[0] < 1.2 and ones[1] > 4  # in a full row the sign alone; in an empty one a surprise


def test_weights_that_were_pruned_stay_so():
    torch.manual_seed(0)
    rows = torch.randn(300, 1, dtype=torch.float64) + 0.1 * torch.randn(300, 8, dtype=torch.float64)
    weight = torch.randn(16, 8, dtype=torch.float64)
    weight[torch.rand(weight.shape) < 0.7] = 0
    levels, left = rounded(weight, solver_of(moments(rows)), torch.ones(16), 0.5, 1e-12)
    assert not levels[weight == 0].any() and levels[weight != 0].any()
    near = rows @ ((weight / 0.5).round() * 0.5).T
    assert (rows @ (levels * 0.5 - weight).T + left).square().mean() < 0.6 * (near - rows @ weight.T).square().mean()


def test_smooth_weights_over_pictures_become_waves(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(2 * 12 * 12, 40), nn.ReLU(), nn.Linear(40, 5))
    waves = Waves(12, 12)
    few = torch.where(torch.rand(40, 288) < 0.03, torch.randn(40, 288), 0)
    module[1].weight.data = waves.sums(few)
    model = fold(pl.load(module.eval(), torch.randn(2, 2, 12, 12))).eval()
    curved = curvature(model, [(torch.randn(8, 2, 12, 12),)], classes=False)
    rounder = RateDistortion(model, curved)
    assert rounder.waves_at(1e-6) == {"1.weight": waves}
    made = rounder.at(1e-6)
    save_packed(made, tmp_path / "x.plt")
    _, _, parts = read_packed(tmp_path / "x.plt")
    assert [p.kind for p in parts].count(Kind.WAVES) == 1
    assert (waves.of(made.named_tensors()["1.weight"].detach())[few == 0].abs() < 1e-5).all()
    assert torch.equal(load_packed(tmp_path / "x.plt").named_tensors()["1.weight"], made.named_tensors()["1.weight"])


def test_every_parameter_is_a_multiple_of_its_step():
    made = cheapest(models()[0], 1e-6)
    for name, value in made.named_parameters():
        if value.dim() == 4 and value[0, 0].numel() > 1:
            continue  # may be a sum of waves
        sizes = value.detach().abs()[value.detach() != 0].double()
        if len(sizes):
            steps = value.detach().double() / float(sizes.min())
            coarse = min((steps * k - (steps * k).round()).abs().max() for k in range(1, 65))
            assert coarse < 1e-3, name


class Spectrum(nn.Module):
    """Eight bands of a Fourier basis that is no parameter, and a layer that reads them."""

    def __init__(self):
        super().__init__()
        angles = 2 * torch.pi * torch.outer(torch.arange(8), torch.arange(32)) / 32
        self.register_buffer("basis", angles.cos()[:, None])
        self.register_buffer("mean", torch.rand(8, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head((torch.conv1d(x, self.basis, stride=8).abs() - self.mean).mean(2))


def test_constants_that_a_layer_reads_as_its_weight_are_rounded_too(tmp_path):
    torch.manual_seed(0)
    model = pl.load(Spectrum().eval(), torch.randn(4, 1, 64))
    made = cheapest(model, 1e-7)
    exact, rough = model.named_tensors(), made.named_tensors()
    assert torch.equal(exact["mean"], rough["mean"])
    assert 0 < float((exact["basis"] - rough["basis"]).abs().max()) < 0.1
    assert not any(t.requires_grad for t in (exact["basis"], rough["basis"]))
    save_packed(made, tmp_path / "x.plt")
    named = dict(zip(rough, read_packed(tmp_path / "x.plt")[2], strict=True))
    assert named["basis"].kind in (Kind.STEPS, Kind.WAVES)
    assert named["mean"].kind is Kind.WORDS


def test_what_is_excluded_by_name_keeps_every_bit():
    model = fold(models()[0]).eval()
    rounder = RateDistortion(model, curvature(model, [], classes=False), ("head",))
    made = rounder.at(1e-2)
    assert torch.equal(made.named_tensors()["head.weight"], model.named_tensors()["head.weight"])
    assert not torch.equal(made.named_tensors()["stem.0.weight"], model.named_tensors()["stem.0.weight"])


def test_knowing_the_data_keeps_more_of_the_network_at_the_same_size(tmp_path):
    network, task = fold(trained()).eval(), digits()
    batches = [x for x, _ in batches_of(network, task.data("train"), 512, 16)]
    judged = torch.cat([x[0] for x, _ in batches_of(network, task.data("validation"), 300, 50)])
    wanted = network(judged).detach().softmax(1)

    def harm_and_bytes(curved, price):
        made = RateDistortion(network, curved).at(price)
        size = pl.pack(made, tmp_path / "x.plt").file_bytes
        return float((made(judged).detach().softmax(1) - wanted).square().sum()), size

    blind = [harm_and_bytes(curvature(network, [], classes=True), p) for p in (1e-6, 1e-5, 1e-4)]
    known = [harm_and_bytes(curvature(network, batches, classes=True), p) for p in (1e-9, 1e-8, 1e-7, 1e-6)]
    for harm, size in blind:
        assert any(h <= harm and s <= 0.9 * size for h, s in known), (harm, size, known)


def test_a_quantized_network_is_refused():
    model = models()[0]
    quantized = pl.quantize(model, random_task(model), samples=4)
    with pytest.raises(pl.PacklightError, match="is quantized; choose levels for its float version"):
        RateDistortion(quantized, curvature(fold(model), [], classes=False))
