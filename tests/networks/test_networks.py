"""The reference networks are the ones their names promise, and every runtime form of them can be made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import packlight as pl
from packlight import networks
from packlight.errors import PacklightError
from packlight.measure.parity import check
from packlight.networks.speech import LogMel
from packlight.networks.text import sentence_encoder
from packlight.networks.widths import scaled
from packlight.targets import export
from packlight.task.readers import sentence_encoder_files

IMAGE, WAVE = (torch.zeros(2, 1, 28, 28),), (torch.randn(2, 10_240) * 0.1,)
WORDS = (torch.randint(1, 30_000, (2, 16)), torch.ones(2, 16, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (networks.lenet300, 266_610),
        (networks.lenet5, 431_080),
        (networks.mobilenet_v2, 3_504_872),
        (networks.resnet50, 25_557_032),
        (networks.sentence_encoder, 22_713_216 - 384 * 384 - 384),  # without the pooler, which is not used
        (lambda: networks.efficientnet_lite(3, 1000), 4_652_008),
    ],
)
def test_a_known_network_has_its_published_number_of_parameters(make, published):
    assert sum(p.numel() for p in make().parameters()) == published


def test_squeezenet_has_the_weights_of_version_1_1_besides_its_biases_and_norms():
    fires = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    biases = 64 + sum(squeeze + 2 * expand for squeeze, expand in fires) + 1000
    weights = sum(p.numel() for p in networks.squeezenet(3, 1000).parameters() if p.dim() > 1)
    assert weights == 1_235_496 - biases  # torchvision's squeezenet1_1


@pytest.mark.parametrize(
    ("channels", "width", "multiple", "wanted"),
    [(64, 1.0, 1, 64), (64, 0.26, 1, 17), (64, 0.001, 1, 1), (96, 0.3, 4, 28), (96, 0.001, 4, 4)],
)
def test_a_width_scales_channels_to_the_nearest_multiple(channels, width, multiple, wanted):
    assert scaled(channels, width, multiple) == wanted


def test_padding_does_not_change_the_class_of_a_text():
    torch.manual_seed(0)
    network = networks.transformer_classifier(3, tokens=16).eval()
    ids, mask = WORDS[0].clone(), WORDS[1].clone()
    mask[:, 10:] = 0
    with torch.no_grad():
        first = network(ids, mask)
        ids[:, 10:] = 7
        assert torch.allclose(network(ids, mask), first, atol=1e-5)  # float32, two layers
        ids[:, 0] += 1
        assert not torch.allclose(network(ids, mask), first, atol=1e-5)


@pytest.mark.parametrize("hertz", [150.0, 440.0, 1000.0, 2500.0])
def test_a_pure_tone_is_loudest_in_the_band_that_holds_it(hertz):
    features = LogMel(rate=16_000, window=1024, hop=256, bands=80, low=60.0, high=3000.0)
    wave = torch.sin(2 * np.pi * hertz * torch.arange(8000) / 16_000)
    bands = features(wave[None])
    assert bands.shape == (1, 80, (8000 - 1024) // 256 + 1)
    edges = np.linspace(*(2595 * np.log10(1 + np.array([60.0, 3000.0]) / 700)), 82)
    place = np.searchsorted(edges, 2595 * np.log10(1 + hertz / 700)) - 1  # the tone lies in bands place − 1 and place
    assert all(abs(int(b) - (place - 0.5)) <= 1 for b in bands[0].argmax(0))


def test_silence_has_finite_features():
    assert torch.isfinite(LogMel(16_000, 1024, 256, 80, 60.0, 3000.0)(torch.zeros(1, 4096))).all()


def test_padding_does_not_change_what_a_sentence_means():
    torch.manual_seed(0)
    encoder = networks.sentence_encoder().eval()
    ids, mask = WORDS[0].clone(), WORDS[1].clone()
    mask[:, 10:] = 0
    with torch.no_grad():
        first = encoder(ids, mask)
        ids[:, 10:] = 7
        assert torch.allclose(encoder(ids, mask), first, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (networks.lenet300, IMAGE),
        (networks.lenet5, IMAGE),
        (networks.mobilenet_v2_small, IMAGE),
        (networks.squeezenet, IMAGE),
        (lambda: networks.efficientnet_lite(width=0.25), IMAGE),
        (networks.unet, (torch.zeros(2, 1, 56, 56),)),
        (networks.ds_cnn, WAVE),
        (networks.conformer, WAVE),
        (lambda: networks.lstm_classifier(2), WORDS),
        (lambda: networks.transformer_classifier(2), WORDS),
        (lambda: networks.sentence_classifier(2), WORDS),
    ],
    ids=[
        "lenet300",
        "lenet5",
        "mobilenet_v2_small",
        "squeezenet",
        "efficientnet_lite",
        "unet",
        "ds_cnn",
        "conformer",
        "lstm",
        "transformer",
        "sentence",
    ],
)
def test_every_network_comes_in_and_runs_on_onnx_runtime(make, inputs, exporter, tmp_path):
    torch.manual_seed(0)
    model = pl.load(make(), inputs)
    artifact = export(model, tmp_path / "net.onnx", exporter.target, exporter=exporter)
    parity = check(model, artifact, tuple(x.numpy() for x in inputs))
    assert parity.ok, parity.reason


@pytest.mark.slow
def test_the_pretrained_encoder_knows_what_sentences_have_to_do_with_each_other():
    from packlight.task.readers.text import tokenize

    try:
        files = sentence_encoder_files()
    except PacklightError as error:
        pytest.skip(str(error))
    encoder = sentence_encoder(files["model.safetensors"]).eval()
    texts = ["A man is playing a guitar.", "Somebody plays music on a guitar.", "The stock market fell sharply today."]
    ids, mask = tokenize(texts, 32)
    with torch.no_grad():
        vectors = encoder(torch.from_numpy(ids), torch.from_numpy(mask))
    close = vectors @ vectors.T
    assert torch.allclose(close.diagonal(), torch.ones(3), atol=1e-5)
    assert close[0, 1] > 0.7 and close[0, 2] < 0.2 and close[1, 2] < 0.2
