"""Every architecture of the zoo, pruned to half of its parameters: proven, small, it runs, trains, saves, exports."""

import functools

import pytest
import torch
from architectures import ARCHITECTURES, build
from cuts import cut_by

import packlight as pl
from packlight.measure.parity import difference
from packlight.measure.quality import torch_runner
from packlight.passes.prune import Pruning, prune
from packlight.targets import Child, Runner, export, get

SPREAD = (
    "lenet5", "googlenet", "resnet", "resnest", "cbam_resnet", "densenet", "siamese", "csp_darknet", "mobilenet_v2",
    "shufflenet_v2", "unet", "segnet", "group_norm_resnet", "lstm_classifier", "temporal_shift", "x_vector", "ds_cnn",
    "vit", "pvt", "grouped_queries", "mlp_mixer", "linformer", "dlrm", "graph_attention",
)  # fmt: skip
EXPORTED = ("lenet5", "resnet", "densenet", "shufflenet_v2", "unet", "vit", "graph_attention")
SMALL = 0.6  # of the parameters, of which half were asked for
AGREES = 1e-6  # rounding of float64; weight norm's lengths are stored in float32, which shows up to 2e-7
RUNS_ALIKE = 1e-4  # of the largest output: float32 sums in another order, through up to a hundred layers


def _cases(fast: tuple[str, ...]) -> list[object]:
    return [pytest.param(n, id=n, marks=() if n in fast else pytest.mark.zoo) for n in ARCHITECTURES]


@functools.cache
def whole(name: str) -> pl.Model:
    module, inputs = build(name)
    return pl.load(module, inputs, name=name)


@functools.cache
def halved(name: str) -> pl.Model:
    return prune(whole(name), Pruning(keep=0.5))


def parameters(model: pl.Model) -> int:
    return sum(p.numel() for p in model.parameters())


def kept(name: str) -> float:
    return parameters(halved(name)) / parameters(whole(name))


@pytest.mark.parametrize("name", _cases(SPREAD))
def test_half_of_the_parameters_go(name):
    assert kept(name) <= SMALL


@pytest.mark.parametrize("name", _cases(SPREAD))
def test_no_layer_was_left_whole_because_its_proof_failed(name):
    assert not [note for note in halved(name).notes if "proof" in note or "not pruned" in note]


@pytest.mark.parametrize("name", _cases(SPREAD))
def test_a_cut_at_random_is_proven_in_eval_and_in_train_mode(name):
    found = cut_by(whole(name))
    assert parameters(found.small) < parameters(whole(name))
    assert found.off() < AGREES
    assert found.off(training=True) < AGREES


@pytest.mark.parametrize("name", _cases(SPREAD))
def test_it_runs_at_another_batch_size_and_trains_a_step(name):
    model = halved(name).copy()
    for shape, inputs in ((3, model.example_inputs(seed=1, batch=3)), (5, model.example_inputs(seed=2, batch=5))):
        outputs = model.flat(*inputs)
        assert all(torch.isfinite(y).all() for y in outputs if y.is_floating_point()), shape
    model.train()
    step = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = sum(y.square().mean() for y in model.flat(*model.example_inputs()) if y.requires_grad)
    loss.backward()
    assert torch.isfinite(loss)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    step.step()


@pytest.mark.parametrize("name", _cases(SPREAD))
def test_it_saves_and_loads(name, tmp_path):
    model = halved(name)
    loaded = pl.load(model.save(tmp_path / "small.plm"))
    inputs = model.example_inputs(seed=4)
    for a, b in zip(model.flat(*inputs), loaded.flat(*inputs), strict=True):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


@pytest.mark.parametrize("name", _cases(EXPORTED))
def test_onnx_runtime_computes_what_it_computes(name, tmp_path, exporter: Child):
    pytest.importorskip("onnxruntime", reason="pip install 'packlight[onnxruntime]'")
    model = halved(name)
    artifact = export(model, tmp_path / "small.onnx", get("onnxruntime"), exporter=exporter)
    inputs = [x.numpy() for x in model.example_inputs(seed=5)]
    with Runner(artifact) as runner:
        for got, want in zip(runner(*inputs), torch_runner(model)(*inputs), strict=True):
            assert got.shape == want.shape
            assert difference(got, want).within(RUNS_ALIKE), difference(got, want)
