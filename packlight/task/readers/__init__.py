"""Built-in tasks on real data: looked for locally, never downloaded without being asked.

docs/data.md says what each one is, under which licence, how it is split and how to get it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from packlight.task.readers.digits import digits, digits_images
from packlight.task.readers.fashion import (
    FASHION_CLASSES,
    FASHION_MEAN,
    FASHION_STD,
    fashion_mnist,
    fashion_mnist_demo,
    shift_and_flip,
)
from packlight.task.readers.language import brown, brown_documents
from packlight.task.readers.places import sentence_encoder_files
from packlight.task.readers.scenes import fashion_scenes
from packlight.task.readers.speech import mandarin_tones, mandarin_tones_clips, vary_speech
from packlight.task.readers.text import bbc_news, bbc_news_documents, spam_assassin, spam_assassin_documents
from packlight.task.task import Task

READERS: dict[str, Callable[[], Task]] = {
    "fashion-mnist": cache(fashion_mnist),
    "fashion-mnist-demo": cache(fashion_mnist_demo),
    "fashion-scenes": cache(fashion_scenes),
    "digits": cache(digits),
    "mandarin-tones": cache(mandarin_tones),
    "bbc-news": cache(bbc_news),
    "spam-assassin": cache(spam_assassin),
    "brown": cache(brown),
}

__all__ = [
    "FASHION_CLASSES",
    "FASHION_MEAN",
    "FASHION_STD",
    "READERS",
    "bbc_news",
    "bbc_news_documents",
    "brown",
    "brown_documents",
    "digits",
    "digits_images",
    "fashion_mnist",
    "fashion_mnist_demo",
    "fashion_scenes",
    "mandarin_tones",
    "mandarin_tones_clips",
    "sentence_encoder_files",
    "shift_and_flip",
    "spam_assassin",
    "spam_assassin_documents",
    "vary_speech",
]
