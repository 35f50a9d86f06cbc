"""Brown corpus: which word comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.task.data import ArrayData
from packlight.task.readers.places import find_folder, read_files
from packlight.task.readers.splits import Corpus, Sample, text_id
from packlight.task.task import Task

_CALIBRATION = 512  # windows, spread over all training documents
UNKNOWN, END = "<unknown>", "<end>"
Document = tuple[str, ...]
Array = NDArray[Any]


def brown(length: int = 64, words: int = 8192) -> Task:
    """Brown corpus (Francis and Kučera 1964): the next word of American English of 1961, for causal networks.

    Inputs: word ids, int64 [n, length]; targets: the ids one word later, int64 [n, length]. A network answers
    scores [n, words, length]. Words are in lower case; the vocabulary is the most frequent words of the training
    documents, with one id for all others (0) and one for the end of a sentence (1). Documents are cut into windows
    that share no word; the rest of each, shorter than a window, is dropped. Metric: perplexity.
    """
    given: tuple[Any, ...] = (length, words)
    if not (all(isinstance(n, int) for n in given) and 1 <= length <= 1024 and words > 2):
        raise PacklightError(f"brown needs length in 1..1024 and words > 2, got {length!r} and {words!r}")
    corpus = brown_documents()
    vocabulary = _vocabulary([corpus.items[i] for i in corpus.parts["train"]], words)

    def windows(documents: Iterable[int]) -> Array:
        return np.concatenate([_windows([vocabulary.get(w, 0) for w in corpus.items[i]], length) for i in documents])

    rows = {name: windows(corpus.parts[name]) for name in ("train", "validation", "test")}
    rows["calibration"] = rows["train"][:: max(1, len(rows["train"]) // _CALIBRATION)][:_CALIBRATION]
    parts: dict[str, Any] = {name: ArrayData(x[:, :-1], x[:, 1:]) for name, x in rows.items()}
    facts = {"input": f"word ids, int64 [n, {length}]", "targets": "the next word's ids", "words": list(vocabulary)}
    return Task("brown", "perplexity", **parts, preprocessing=facts)


def brown_documents() -> Corpus[Document]:
    """The 500 documents as words in lower case, END after each sentence, and their splits: 20 % test, 10 %
    validation. Read from `brown/c[a-r][0-9][0-9]`, words with their part of speech as `The/at`; label = genre,
    0 for a to 17 for r.
    """
    folder = find_folder("brown")
    samples = []
    for path, content in read_files(folder, "c[a-r][0-9][0-9]", most=1 << 20, total=1 << 26):
        try:
            text = content.decode("ascii")
        except UnicodeDecodeError as error:
            raise PacklightError(f"{path} is no ASCII text; fetch the data again") from error
        words = _words(text)
        if not words:
            raise PacklightError(f"{path} holds no words; fetch the data again")
        key = text_id(" ".join(words))
        samples.append(Sample(key, words, ord(path.name[1]) - ord("a"), key))
    return Corpus.of(samples, "brown", test=0.2, validation=0.1)


def _words(text: str) -> Document:
    words: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        words += [token.rpartition("/")[0].lower() or token.lower() for token in line.split()]
        words.append(END)
    return tuple(words)


def _vocabulary(documents: Sequence[Document], words: int) -> dict[str, int]:
    counts = Counter(word for document in documents for word in document)
    counts.pop(END, None)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: words - 2]
    return {word: i for i, word in enumerate((UNKNOWN, END, *frequent))}


def _windows(ids: list[int], length: int) -> Array:
    """int64 [n, length + 1]: windows of `length` words and the word after them."""
    n = (len(ids) - 1) // length
    row = np.array(ids, np.int64)
    return row[np.arange(n)[:, None] * length + np.arange(length + 1)]
