"""Mandarin tones: clips are decoded, placed and split; damaged ones refused."""

from __future__ import annotations

import struct
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from packlight.errors import PacklightError
from packlight.task.readers.speech import SAMPLES, mandarin_tones, mandarin_tones_clips, vary_speech

soundfile = pytest.importorskip("soundfile", reason="pip install 'packlight[speech]'")

SYLLABLES = [a + b for a in "ㄅㄆㄇㄈㄉ" for b in "ㄚㄛㄜㄞ"]


def tone(hertz: float, seconds: float, rate: int = 44_100) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = 44_100) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, wave, rate, format="OGG", subtype="VORBIS")


@cache
def clips() -> dict[str, bytes]:
    """20 syllables, each in the four tones and the neutral one, by one speaker; no two clips alike."""
    made = {}
    for i, syllable in enumerate(SYLLABLES):
        for j, digit in enumerate(("", "1", "2", "3", "4")):
            buffer = BytesIO()
            soundfile.write(buffer, tone(200 + 40 * i + 7 * j, 0.2, 16_000), 16_000, format="OGG", subtype="VORBIS")
            made[syllable + digit] = buffer.getvalue()
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    place = tmp_path / "mandarin-tones"
    for name, content in clips().items():
        (place / name).mkdir(parents=True)
        (place / name / "3.ogg").write_bytes(content)
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    return place


def clip(folder: Path) -> np.ndarray:
    """The one clip of the 80 that lasts longer than the rest, or has been put in their place."""
    corpus = mandarin_tones_clips()
    return max(corpus.items, key=np.count_nonzero).astype(np.float64) / 32_768


def test_syllables_stay_whole_and_the_neutral_tone_is_dropped(folder):
    corpus = mandarin_tones_clips()
    assert len(corpus.ids) == 80
    for part in ("train", "validation", "test"):
        assert len(set(np.bincount(corpus.labels[corpus.parts[part]]))) == 1
    task = mandarin_tones()
    assert next(task.data("test").batches(4)).inputs[0].dtype == np.float32


def test_the_label_is_the_tone(folder):
    for digit in ("", "3", "4"):
        for path in folder.glob(f"?{'?' * (len(digit) + 1)}/3.ogg"):
            if path.parent.name[2:] == digit:
                path.unlink()
    assert set(mandarin_tones_clips().labels) == {1}


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_and_power_at_16_khz(rate, folder):
    write(folder / "ㄅㄚ" / "3.ogg", tone(1000, 0.5, rate), rate)
    wave = clip(folder)
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    assert spectrum.argmax() * 16_000 / SAMPLES == pytest.approx(1000, abs=2)
    # a sine of amplitude 0.5 has power 1/8; Vorbis at its usual quality changes less than 2 % of it
    assert (wave**2).sum() / (0.5 * 16_000) == pytest.approx(0.125, rel=0.02)


def test_what_16_khz_cannot_hold_is_filtered_out(folder):
    write(folder / "ㄅㄚ" / "3.ogg", tone(1000, 0.5) + tone(11_000, 0.5))
    power = np.abs(np.fft.rfft(clip(folder))) ** 2
    alias = int(5000 * SAMPLES / 16_000)
    assert power[alias - 50 : alias + 50].max() < 1e-4 * power.max()


def test_a_short_clip_stands_in_the_middle_and_a_long_one_loses_both_ends(folder):
    write(folder / "ㄅㄚ" / "3.ogg", tone(500, 0.3))
    heard = np.flatnonzero(np.abs(clip(folder)) > 0.01)
    assert heard[0] + heard[-1] == pytest.approx(SAMPLES - 1, abs=64)  # 4 ms, the first and last swing of 500 Hz
    parts = np.concatenate([tone(500, 0.18), tone(1500, 0.64), tone(500, 0.18)])
    write(folder / "ㄅㄚ" / "3.ogg", parts)
    power = np.abs(np.fft.rfft(clip(folder))) ** 2
    assert power[int(500 * SAMPLES / 16_000)] < 1e-3 * power.max()


def test_two_channels_are_averaged(folder):
    left = tone(1000, 0.5)
    write(folder / "ㄅㄚ" / "3.ogg", np.stack([left, np.zeros_like(left)], axis=1))
    assert np.abs(clip(folder)).max() == pytest.approx(0.25, rel=0.1)


def header(rate: int = 44_100, size: int = 1 << 31, channels: int = 1) -> bytes:
    """The head of a WAV file that claims `size` bytes of samples, and 100 of them."""
    form = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", (size + 36) % 2**32, b"WAVE", b"fmt ", 16, 1, channels, rate,
                       rate * 2 * channels, 2 * channels, 16)  # fmt: skip
    return form + struct.pack("<4sI", b"data", size % 2**32) + b"\1\2" * 50


DAMAGE = {
    "empty": lambda b: b"",
    "a web page": lambda b: b"<html>not found</html>",
    "cut": lambda b: b[: len(b) // 2],
    "cut header": lambda b: b[:100],
    "zeros inside": lambda b: b[:1500] + bytes(2000) + b[3500:],
    "ten channels": lambda b: header(size=1000, channels=10),
    "rate of 1 Hz": lambda b: header(rate=1, size=100),
    "rate of 2 GHz": lambda b: header(rate=2_000_000_000, size=100),
    "too large": lambda b: b + bytes(1 << 20),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_clip_is_one_line_that_names_it(case, folder):
    path = folder / "ㄅㄚ3" / "3.ogg"
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    with pytest.raises(PacklightError, match=r"ㄅㄚ3.3\.ogg") as error:
        mandarin_tones_clips()
    assert "\n" not in str(error.value)


def test_a_clip_of_an_hour_is_refused_before_it_is_decoded(folder):
    path = folder / "ㄅㄚ3" / "3.ogg"
    write(path, np.random.default_rng(0).normal(0, 0.1, 3 * 44_100))  # noise fills several pages
    content = bytearray(path.read_bytes())
    last_page = content.rindex(b"OggS")
    content[last_page + 6 : last_page + 14] = struct.pack("<q", 3600 * 44_100)  # the position at the page's end
    content[last_page + 22 : last_page + 26] = bytes(4)
    content[last_page + 22 : last_page + 26] = struct.pack("<I", ogg_checksum(bytes(content[last_page:])))
    path.write_bytes(content)
    with pytest.raises(PacklightError, match=r"3\.ogg claims 3,600.0 s; a syllable lasts"):
        mandarin_tones_clips()


def ogg_checksum(page: bytes) -> int:
    """RFC 3533, section 6: a CRC with the polynomial 0x04c11db7, without reflection."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def test_a_folder_of_other_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mandarin-tones").mkdir()
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    with pytest.raises(PacklightError, match=r"holds no file \*/\*.ogg; remove it and fetch it again"):
        mandarin_tones_clips()


# augmentation


def waves(n: int = 64, hertz: float = 500.0) -> torch.Tensor:
    time = torch.arange(SAMPLES) / 16_000
    inside = (time > 0.2) & (time < 0.44)
    return (0.3 * torch.sin(2 * torch.pi * hertz * time) * inside).expand(n, -1)


def varied(seed: int = 0, **kind: float) -> torch.Tensor:
    return vary_speech(waves(**kind), torch.Generator().manual_seed(seed))


def test_augmentation_changes_pitch_by_at_most_a_twentieth():
    pitch = torch.fft.rfft(varied()).abs()[:, 100:].argmax(1) + 100
    share = pitch * 16_000 / SAMPLES / 500
    assert 0.945 < share.min() < 0.97 and 1.03 < share.max() < 1.055


def test_augmentation_moves_clips_by_at_most_50_ms():
    loud = varied().square().unfold(1, 160, 160).sum(2)
    middle = (loud * torch.arange(64)).sum(1) / loud.sum(1) * 0.01 - 0.32 + 0.005
    assert -0.06 < middle.min() < -0.03 and 0.03 < middle.max() < 0.06


def test_augmentation_changes_loudness_by_at_most_6_db():
    gain = 10 * torch.log10(varied().square().sum(1) / waves().square().sum(1))
    assert -6.5 < gain.min() < -4 and 4 < gain.max() < 6.5  # 0.5 dB for noise and speed


def test_augmentation_adds_noise_15_to_40_db_below():
    quiet = varied()
    noise = torch.cat([quiet[:, :1500], quiet[:, -1500:]], dim=1).square().mean(1)
    below = 10 * torch.log10(noise / quiet.square().mean(1))
    assert -41 < below.min() < -35 and -20 < below.max() < -14


def test_augmentation_of_silence_is_silence():
    assert vary_speech(torch.zeros(4, SAMPLES), torch.Generator()).abs().max() == 0


def test_augmentation_follows_the_generator():
    assert varied(1).equal(varied(1))
    assert not varied(1).equal(varied(2))
