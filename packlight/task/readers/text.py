"""Text classification: BBC News and SpamAssassin mails, as token ids of the sentence encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packlight.errors import PacklightError
from packlight.task.data import ArrayData
from packlight.task.readers.mail import visible_text
from packlight.task.readers.places import find_folder, read_file, read_files, sentence_encoder_files
from packlight.task.readers.splits import Corpus, Sample, text_id
from packlight.task.readers.versions import versions
from packlight.task.task import Task

BBC_CLASSES = ("business", "entertainment", "politics", "sports", "tech")
SPAM_CLASSES = ("ham", "spam")
_MAIL_FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
_MOST, _TOTAL = 1 << 20, 1 << 28  # bytes of one file, of all files
Ids = NDArray[np.int64]


def bbc_news(length: int = 128) -> Task:
    """BBC News (Greene and Cunningham 2006): which of five desks an article of 2004–2005 came from.

    Inputs: token ids and attention mask, int64 [n, length] each; needs the files of the sentence encoder and
    `pip install tokenizers`. length: tokens, 3..512, the two that mark start and end included.
    """
    return _task("bbc-news", bbc_news_documents(), BBC_CLASSES, length)


def spam_assassin(length: int = 128) -> Task:
    """SpamAssassin's public mail corpus: spam or not, from the visible text of the body alone.

    Inputs as those of `bbc_news`. The metric is accuracy; 28 % are spam, so "f1" is a metric worth giving, too:
    dataclasses.replace(task, metric="f1").
    """
    return _task("spam-assassin", spam_assassin_documents(), SPAM_CLASSES, length)


def bbc_news_documents() -> Corpus[str]:
    """The articles and their splits, read from `bbc-news/<class>/*.txt`; label = place in BBC_CLASSES.

    Copies are dropped (white space and case aside), and versions of an article stay in one part.
    """
    folder = find_folder("bbc-news")

    def texts() -> Iterator[tuple[str, int]]:
        for label, name in enumerate(BBC_CLASSES):
            for path, content in read_files(folder / name, "*.txt", _MOST, _TOTAL):
                yield _decoded(path, content), label

    return _corpus("bbc-news", texts())


def spam_assassin_documents() -> Corpus[str]:
    """The visible text of each mail (`packlight.task.readers.mail`) and the splits; label 1 = spam.

    Read from `spam-assassin/<group>/*.json`, objects with the raw mail under "text". Mails without visible text,
    copies, and texts found as both ham and spam are dropped; versions of a mail stay in one part.
    """
    folder = find_folder("spam-assassin")

    def texts() -> Iterator[tuple[str, int]]:
        for name, label in _MAIL_FOLDERS.items():
            for path, content in read_files(folder / name, "*.json", _MOST, _TOTAL):
                text = visible_text(_raw_mail(path, content))
                if text:
                    yield text, label

    return _corpus("spam-assassin", texts())


def _corpus(name: str, texts: Iterable[tuple[str, int]]) -> Corpus[str]:
    read = sorted((text_id(text), text, label) for text, label in texts)
    groups = versions([text for _, text, _ in read])
    return Corpus.of(
        (Sample(key, text, label, read[i][0]) for (key, text, label), i in zip(read, groups, strict=True)), name
    )


def _decoded(path: Path, content: bytes) -> str:
    """UTF-8, else Windows-1252 (one article's pound sign); bytes that are no text in either are refused."""
    for encoding in ("utf-8", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.strip() and "\0" not in text:
            return text
    raise PacklightError(f"{path} is no text in UTF-8 or Windows-1252, or empty; fetch the data again")


def _raw_mail(path: Path, content: bytes) -> str:
    try:
        mail = json.loads(content)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PacklightError(f'{path} is no JSON object with the mail under "text"; fetch the data again') from error
    if not isinstance(mail, str):
        raise PacklightError(f'{path}: "text" must be a string, got {type(mail).__name__}; fetch the data again')
    return mail


def _task(name: str, corpus: Corpus[str], classes: Sequence[str], length: int) -> Task:
    ids, mask = tokenize(corpus.items, length)
    parts: dict[str, Any] = {
        part: ArrayData((ids[where], mask[where]), corpus.labels[where]) for part, where in corpus.parts.items()
    }
    facts = {
        "input": f"token ids and attention mask, int64 [n, {length}], of the tokenizer of all-MiniLM-L6-v2",
        "layout": "ids, mask", "tokens": length, "classes": list(classes),
    }  # fmt: skip
    return Task(name, "accuracy", **parts, preprocessing=facts)


def tokenize(texts: Sequence[str], length: int = 128) -> tuple[Ids, Ids]:
    """Token ids and attention mask (1 = token, 0 = padding), int64 [n, length], for the sentence encoder.

    length: 3..512 tokens. Text beyond them is dropped, and so is what lies behind the first 8·length characters,
    runs of white space counted as one: English has about five characters a token, and tokenizing the rest of a long
    document would be for nothing.
    """
    given: Any = length
    if not (isinstance(given, int) and 3 <= given <= 512):
        raise PacklightError(f"a text's length must be 3 to 512 tokens, got {length!r}")
    tokenizer = _tokenizer(sentence_encoder_files()["tokenizer.json"])
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    rows = tokenizer.encode_batch_fast([" ".join(text.split())[: 8 * length] for text in texts])
    return np.array([row.ids for row in rows], np.int64), np.array([row.attention_mask for row in rows], np.int64)


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise PacklightError("text data needs tokenizers: pip install 'packlight[text]'") from error
    content = read_file(path, 64 << 20)
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises plain Exception
        raise PacklightError(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from error
