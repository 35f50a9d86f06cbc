"""The real data are split as packlight/task/readers/splits.json says. Run as a script, this file writes that."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packlight.errors import PacklightError
from packlight.task import readers
from packlight.task.readers import READERS
from packlight.task.readers.splits import CALIBRATION, Corpus, content_id

pytestmark = pytest.mark.slow

CORPORA: dict[str, Callable[[], Corpus[Any]]] = {
    "digits": readers.digits_images,
    "mandarin-tones": readers.mandarin_tones_clips,
    "bbc-news": readers.bbc_news_documents,
    "spam-assassin": readers.spam_assassin_documents,
    "brown": readers.brown_documents,
}
NAMES = ("fashion-mnist", "fashion-scenes", *CORPORA)


def manifest(name: str) -> dict[str, Any]:
    if name in CORPORA:
        return CORPORA[name]().manifest()
    parts = {part: READERS[name]().data(part) for part in ("calibration", "test", "train", "validation")}
    return {
        part: {
            "samples": len(data),
            "classes": np.bincount(data.targets.ravel()).tolist(),
            "sha256": content_id("".join(content_id(x.tobytes()) for x in data.inputs[0]).encode()),
        }
        for part, data in parts.items()
    }


def present(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except PacklightError as error:
        if "no folder" in str(error) or "pip install" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_are_those_written_down(name):
    written = json.loads(resources.files("packlight.task.readers").joinpath("splits.json").read_text())
    assert present(lambda: manifest(name)) == written[name]


@pytest.mark.parametrize("name", CORPORA)
def test_no_content_is_in_two_parts(name):
    corpus = present(CORPORA[name])
    ids = {part: {corpus.ids[i] for i in positions} for part, positions in corpus.parts.items()}
    assert ids["test"].isdisjoint(ids["train"] | ids["validation"])
    assert ids["validation"].isdisjoint(ids["train"])
    assert ids["calibration"] <= ids["train"] and len(ids["calibration"]) == CALIBRATION
    assert len(corpus.ids) == len(set(corpus.ids)) == sum(len(ids[p]) for p in ("train", "validation", "test"))


@pytest.mark.parametrize("name", ["mandarin-tones", "bbc-news", "spam-assassin"])
def test_the_network_sees_no_test_input_in_training(name):
    task = present(READERS[name])
    rows = {part: {x.tobytes() for x in task.data(part).inputs[0]} for part in ("train", "validation", "test")}
    assert rows["test"].isdisjoint(rows["train"] | rows["validation"])


def test_no_clip_is_cut_and_none_is_silent():
    task = present(READERS["mandarin-tones"])
    waves = np.concatenate([task.data(part).inputs[0] for part in ("train", "validation", "test")])
    assert waves.shape == (2334, 10240) and waves.dtype == np.int16
    longest = max(np.ptp(np.flatnonzero(wave)) + 1 for wave in waves) / 16_000
    assert 0.55 < longest < 0.63  # seconds; 0.626 as recorded
    assert np.abs(waves).max(axis=1).min() > 100


def test_a_rising_tone_rises_and_a_falling_one_falls():
    """The pitch by autocorrelation in the last third of the loud part over that in the first, in octaves."""
    task = present(READERS["mandarin-tones"])
    data = task.data("validation")
    waves = next(data.batches(len(data))).inputs[0]

    def pitch(wave: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4096)) ** 2
        similar = np.fft.irfft(power)[:400]
        return 16_000 / (40 + similar[40:230].argmax())

    change = []
    for wave in waves:
        loud = np.flatnonzero(np.abs(wave) > 0.1 * np.abs(wave).max())
        start, length = loud[0], (loud[-1] - loud[0]) // 3
        change.append(np.log2(pitch(wave[start + 2 * length : loud[-1]]) / pitch(wave[start : start + length])))
    by_tone = [np.median(np.array(change)[data.targets == tone]) for tone in range(4)]
    assert by_tone[1] > 0.1 and by_tone[3] < -0.1
    assert abs(by_tone[0]) < 0.1


def test_words_of_bbc_news_say_which_desk():
    """A bag of the tokens that a network gets, and logistic regression: 92 % here; the largest class has 26 %."""
    task = present(READERS["bbc-news"])
    linear_model = pytest.importorskip("sklearn.linear_model")

    def bags(part: str) -> np.ndarray:
        ids, mask = task.data(part).inputs
        return np.stack([np.bincount(row, minlength=30_522) > 0 for row in ids * mask])[:, 1000:]

    model = linear_model.LogisticRegression().fit(bags("train"), task.data("train").targets)
    assert model.score(bags("test"), task.data("test").targets) > 0.85


def test_brown_targets_are_the_next_words():
    task = present(READERS["brown"])
    data = task.data("test")
    assert np.array_equal(data.inputs[0][:, 1:], data.targets[:, :-1])
    words = task.preprocessing["words"]
    assert len(words) == 8192 and {"the", "of"} <= set(words[2:6])
    vocabulary = torch.tensor(data.targets)
    assert 0.05 < (vocabulary == 0).float().mean() < 0.15  # share of words outside the vocabulary


if __name__ == "__main__":
    target = Path(readers.__file__).with_name("splits.json")
    target.write_text(json.dumps({name: manifest(name) for name in NAMES}, indent=1) + "\n")
