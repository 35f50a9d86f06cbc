"""Estimates for devices that are not at hand: cases doable on paper, and profiles that are checked."""

import json

import pytest
import torch
from torch import nn

import packlight as pl
from packlight.measure.devices import device, device_names
from packlight.testing.examples import random_task

PROFILE = """
title: Paper device
processor: none
cores: 1
operations_per_s: {float32: 1000, int8: 4000}
bytes_per_s: 1000
memory_bytes: 5000
formats: [float32, int8]
source: made for this test
"""


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    return pl.load(nn.Linear(16, 8), torch.zeros(2, 16))


def test_a_layer_takes_the_longer_of_computing_and_moving(linear, paper):
    found = pl.estimate(linear, paper)
    moved = 4 * (16 * 8 + 8 + 16 + 8)  # weights, bias, what is read and what is written
    assert found.seconds == pytest.approx(moved / 1000) and found.memory_bound == 1
    assert found.weight_bytes == 4 * (16 * 8 + 8) and found.fits
    busy = pl.estimate(linear, paper, batch=64)
    assert busy.seconds == pytest.approx(2 * 64 * 16 * 8 / 1000) and busy.memory_bound == 0


def test_what_is_quantized_computes_and_moves_in_bytes(linear, paper):
    small = pl.quantize(linear, random_task(linear))
    many = pl.estimate(small, paper, batch=64)
    assert many.layers[0].format == "int8"
    assert many.seconds == pytest.approx(max(2 * 64 * 16 * 8 / 4000, (16 * 8 + 4 * 8 + 64 * 24) / 1000), rel=0.05)


def test_what_does_not_fit_is_told(paper):
    assert not pl.estimate(pl.load(nn.Linear(64, 64), torch.zeros(2, 64)), paper).fits


def test_float16_halves_what_is_moved_where_the_device_has_it(linear):
    whole, half = (pl.estimate(linear, "raspberry-pi-5", form=f) for f in ("float32", "float16"))
    assert half.seconds == pytest.approx(whole.seconds / 2)
    old = [pl.estimate(linear, "raspberry-pi-4", form=f).seconds for f in ("float32", "float16")]
    assert old[0] == old[1], "it computes in float32 all the same"


@pytest.mark.parametrize("name", device_names())
def test_every_profile_that_ships_can_be_read_and_states_its_source(name):
    found = device(name)
    assert found.title and found.source and not found.measured
    assert set(found.formats) == set(found.operations_per_s)


def test_this_machine_is_measured():
    here = device("here")
    assert here.measured and here.operations_per_s["float32"] > 1e8 and here.bytes_per_s > 1e8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no device profile"),
        ("[1, 2]", "no device profile"),
        (PROFILE.replace("cores: 1\n", ""), "it has no 'cores'"),
        (PROFILE.replace("bytes_per_s: 1000", "bytes_per_s: -1"), "bytes_per_s is -1, it must be above 0"),
        (PROFILE.replace("float32: 1000, ", ""), "has no float32"),
        (PROFILE + "more: !!python/object/apply:os.getcwd []", "no device profile"),
        ("a: " * 30000, "larger than"),
    ],
)  # fmt: skip
def test_a_profile_that_is_none_is_one_clear_line(tmp_path, text, told):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(pl.PacklightError, match=told) as caught:
        device(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_device_names_those_that_are_known():
    with pytest.raises(pl.PacklightError, match="raspberry-pi-5"):
        device("toaster")


def test_the_command_says_that_it_estimates(tmp_path, capsys, linear, paper):
    from packlight.cli import app

    linear.save(tmp_path / "net.plm")
    app(["estimate", str(tmp_path / "net.plm"), "--device", paper, "--json"], standalone_mode=False)
    (told,) = json.loads(capsys.readouterr().out)
    assert told["estimate"] is True and told["peaks_measured"] is False and told["least_latency_ms"] > 0
    app(["estimate", str(tmp_path / "net.plm"), "--device", paper], standalone_mode=False)
    assert "estimates from peaks in data sheets" in capsys.readouterr().out
