"""Mandarin tones: isolated syllables of two speakers, as waveforms."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.task.data import ArrayData
from packlight.task.readers.places import find_folder, read_files
from packlight.task.readers.splits import Corpus, Sample, content_id
from packlight.task.task import Task

RATE = 16_000  # samples a second
SAMPLES = 10_240  # 0.64 s: the longest of the 2,334 clips lasts 0.626 s, so none is cut
TONES = ("first: high level", "second: rising", "third: dipping", "fourth: falling")
_SCALE = 1 / 32_768
_RATES = (8_000, 192_000)
_LONGEST = 10.0  # seconds of a clip that are worth decoding
Wave = NDArray[np.int16]


def mandarin_tones() -> Task:
    """Which of the four tones a recorded Mandarin syllable has; the chance of the largest class is 28 %.

    Inputs are waveforms in [-1, 1], float32 [n, 10240], 16 kHz, the clip in the middle of 0.64 s of silence; what a
    network hears in them (log-mel bands, …) is part of the network. Both speakers are in every part, so nothing is
    said about unknown speakers; the syllables of the test part are in no other. Needs `pip install soundfile`.
    """
    corpus = mandarin_tones_clips()
    waves = np.stack(corpus.items)
    parts: dict[str, Any] = {
        name: ArrayData(waves[where], corpus.labels[where], scale=_SCALE) for name, where in corpus.parts.items()
    }
    facts = {
        "input": f"mono waveform, {RATE} samples a second, {SAMPLES} samples, the clip centred in silence, int16",
        "scale": _SCALE, "formula": "x * scale", "layout": "N, samples", "classes": list(TONES),
    }  # fmt: skip
    return Task("mandarin-tones", "accuracy", **parts, augment=vary_speech, preprocessing=facts)


def mandarin_tones_clips() -> Corpus[Wave]:
    """The recordings of gcin-voice (GPL-3 or LGPL-3, and CC BY 3.0) as int16 [10240] at 16 kHz, and their splits.

    Read from `mandarin-tones/<syllable in zhuyin><tone>/<speaker>.ogg`, label = tone 0..3. The neutral tone (folders
    ending in 1) is left out: 24 clips. Split by syllable, tones and speakers together.
    """
    return Corpus.of(_samples(find_folder("mandarin-tones")), "mandarin-tones")


def _samples(folder: Path) -> Iterator[Sample[Wave]]:
    def sample(file: tuple[Path, bytes]) -> Sample[Wave] | None:
        path, content = file
        syllable, tone = _syllable_and_tone(path.parent.name)
        return None if tone is None else Sample(content_id(content), _decoded(path), tone, syllable)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # the decoder lets go of Python's lock
        yield from filter(None, threads.map(sample, read_files(folder, "*/*.ogg", most=1 << 20, total=1 << 26)))


def _syllable_and_tone(name: str) -> tuple[str, int | None]:
    """("ㄇㄚ", 2) for "ㄇㄚ3": no digit is the first tone, 1 the neutral one (None)."""
    if name[-1] in "1234":
        return name[:-1], {"1": None, "2": 1, "3": 2, "4": 3}[name[-1]]
    return name, 0


def _decoded(path: Path) -> Wave:
    """An audio file's channels averaged, at 16 kHz, in the middle of SAMPLES samples."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise PacklightError("speech data needs soundfile: pip install 'packlight[speech]'") from error
    try:
        with soundfile.SoundFile(path) as file:
            rate, claimed = file.samplerate, file.frames
            if not _RATES[0] <= rate <= _RATES[1]:
                raise PacklightError(f"{path} claims {rate} samples a second; {_RATES[0]} to {_RATES[1]} can be read")
            if not 0 < claimed <= _LONGEST * rate:
                raise PacklightError(
                    f"{path} claims {claimed / rate:,.1f} s; a syllable lasts more than 0 and at most {_LONGEST:g} s"
                )
            if file.channels > 2:
                raise PacklightError(f"{path} claims {file.channels} channels; 1 or 2 can be read")
            wave = file.read(frames=claimed, dtype="float32", always_2d=True).mean(axis=1)
    except soundfile.SoundFileError as error:
        raise PacklightError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if len(wave) != claimed or not np.isfinite(wave).all():
        raise PacklightError(f"{path} is damaged: {len(wave)} of {claimed} samples could be read")
    return _centred(wave if rate == RATE else _resampled(wave, rate))


def _resampled(wave: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    from scipy.signal import resample_poly

    shared = math.gcd(rate, RATE)
    up, down = RATE // shared, rate // shared
    return resample_poly(wave, up, down, window=_low_pass(max(up, down)))


@lru_cache(4)
def _low_pass(factor: int) -> Any:
    """The filter that scipy's resample_poly makes anew at each call: a Kaiser window with β = 5, 20·factor + 1 taps."""
    from scipy.signal import firwin

    return firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(np.float32)


def _centred(wave: NDArray[np.float32]) -> Wave:
    """The wave in the middle of SAMPLES samples, silence or cut on both sides alike, as int16."""
    cut = max(0, len(wave) - SAMPLES) // 2
    wave = wave[cut : cut + SAMPLES]
    before = (SAMPLES - len(wave)) // 2
    placed = np.zeros(SAMPLES, np.int16)
    placed[before : before + len(wave)] = np.clip(np.rint(wave / _SCALE), -32_768, 32_767).astype(np.int16)
    return placed


def vary_speech(waves: Any, generator: Any) -> Any:
    """Each wave [n, samples] up to 5 % faster or slower, moved by up to 50 ms, 6 dB louder or softer, and in white
    noise 15 to 40 dB below its own power.

    A tone is a pitch contour, so a small change of speed keeps it. Speed and shift are one linear interpolation.
    """
    import torch

    n, samples = waves.shape

    def between(low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(n, 1, generator=generator)

    middle = (samples - 1) / 2
    time = torch.arange(samples, dtype=waves.dtype) - middle
    places = time * between(0.95, 1.05) + middle + between(-0.05, 0.05) * RATE
    whole = places.floor()
    share = places - whole
    inside = torch.nn.functional.pad(waves, (1, 1))
    left = (whole + 1).clamp(0, samples + 1).long()
    right = (whole + 2).clamp(0, samples + 1).long()
    moved = inside.gather(1, left) * (1 - share) + inside.gather(1, right) * share
    moved = moved * 10 ** (between(-6.0, 6.0) / 20)
    loudness = moved.square().mean(1, keepdim=True).sqrt()
    noise = torch.randn(n, samples, generator=generator, dtype=waves.dtype)
    return moved + noise * loudness * 10 ** (-between(15.0, 40.0) / 20)
