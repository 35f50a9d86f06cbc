"""BBC News, SpamAssassin and Brown from small made folders: token ids, splits, damaged files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from packlight.errors import PacklightError
from packlight.task.readers import (
    bbc_news,
    bbc_news_documents,
    brown,
    brown_documents,
    spam_assassin,
    spam_assassin_documents,
)
from packlight.task.readers.text import BBC_CLASSES, tokenize

WORDS = [a + b + c for a in "bdklmprst" for b in "aeiou" for c in "nrst"]


def sentence(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PACKLIGHT_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def encoder(home) -> Path:
    """A sentence encoder's folder whose tokenizer knows WORDS: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, WORDS from 4."""
    tokenizers = pytest.importorskip("tokenizers", reason="pip install 'packlight[text]'")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    model = tokenizers.models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = home / "sentence-encoder"
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).touch()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def bbc(home) -> Path:
    folder = home / "bbc-news"
    for i, name in enumerate(BBC_CLASSES):
        (folder / name).mkdir(parents=True)
        for j in range(12):
            (folder / name / f"{j:03}.txt").write_text(f"{name}\n\n{sentence(100 * i + j)}", encoding="utf-8")
    return folder


@pytest.fixture
def mails(home) -> Path:
    folder = home / "spam-assassin"
    for i, name in enumerate(("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")):
        (folder / name).mkdir(parents=True)
        for j in range(12):
            mail = f"From: x\nSubject: {name}\n\n{sentence(100 * i + j)}"
            (folder / name / f"{j}.json").write_text(json.dumps({"group": name, "text": mail}))
    return folder


# token ids


def test_token_ids_and_mask_by_hand(encoder):
    ids, mask = tokenize([f"{WORDS[0]}  {WORDS[7]}\n{WORDS[2]}", "qqq", ""], 6)
    assert ids.tolist() == [[2, 4, 11, 6, 3, 0], [2, 1, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_a_long_text_is_cut_and_still_ends_as_a_text_does(encoder):
    ids, mask = tokenize([" ".join(WORDS)], 16)
    assert ids[0].tolist() == [2, *range(4, 18), 3]
    assert mask.all()


@pytest.mark.parametrize("length", [2, 513, 12.5, "128"])
def test_a_length_out_of_range_is_refused(length, encoder):
    with pytest.raises(PacklightError, match="must be 3 to 512 tokens, got"):
        tokenize(["a"], length)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"{}", b'{"model": {"type": "Evil"}}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "a web page", "no model", "unknown model", "no text", "deep"],
)
def test_a_damaged_tokenizer_is_one_line_that_names_it(content, encoder):
    (encoder / "tokenizer.json").write_bytes(content)
    with pytest.raises(PacklightError, match=r"tokenizer.json is no tokenizer: ") as error:
        tokenize(["a"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [bbc_news, spam_assassin])
def test_a_task_hands_out_ids_and_mask_with_their_labels(make, encoder, bbc, mails):
    task = make(length=32)
    for part in ("train", "calibration", "validation", "test"):
        batch = next(task.data(part).batches(4))
        assert [x.shape[1] for x in batch.inputs] == [32, 32]
        assert all(x.dtype == np.int64 for x in batch.inputs)
    sizes = [len(task.data(part)) for part in ("train", "validation", "test")]
    assert sizes == [27, 9, 24]  # of 60: 40 % test, 15 % validation


def test_without_the_encoder_there_is_one_line(bbc, monkeypatch):
    monkeypatch.chdir(bbc)
    with pytest.raises(PacklightError, match=r"no folder 'sentence-encoder' in .*get_data.sh sentence-encoder"):
        bbc_news()


# BBC News


def test_articles_bear_the_label_of_their_folder(bbc):
    corpus = bbc_news_documents()
    assert all(text.startswith(BBC_CLASSES[label]) for text, label in zip(corpus.items, corpus.labels, strict=True))
    assert np.bincount(corpus.labels).tolist() == [12] * 5


def test_copies_are_dropped_and_versions_stay_in_one_part(bbc):
    for j in range(12):
        text = (bbc / "tech" / f"{j:03}.txt").read_text()
        (bbc / "tech" / f"copy{j}.txt").write_text(text.upper().replace(" ", "  "))
        (bbc / "tech" / f"version{j}.txt").write_text(f"update {text}")
    corpus = bbc_news_documents()
    assert len(corpus.ids) == 72
    homes: dict[str, set[str]] = {}
    for name in ("train", "validation", "test"):
        for i in corpus.parts[name]:
            homes.setdefault(" ".join(corpus.items[i].lower().split()[-5:]), set()).add(name)
    assert len(homes) == 60 and all(len(parts) == 1 for parts in homes.values())


def test_windows_1252_is_read_where_it_is_no_utf_8(bbc):
    (bbc / "sports" / "000.txt").write_bytes(b"the \xa39m player")
    assert "the £9m player" in bbc_news_documents().items


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"\x81\x8d\xff", b"text\0text", b"\x7fELF\0\0"],
    ids=["empty", "blank", "no character set", "a zero", "a programme"],
)  # fmt: skip
def test_an_undecodable_article_is_one_line_that_names_it(content, bbc):
    (bbc / "tech" / "003.txt").write_bytes(content)
    with pytest.raises(PacklightError, match=r"tech.003.txt is no text in UTF-8 or Windows-1252, or empty"):
        bbc_news_documents()


def test_a_missing_class_is_one_line(bbc):
    for path in (bbc / "politics").iterdir():
        path.unlink()
    with pytest.raises(PacklightError, match=r"politics holds no file \*.txt"):
        bbc_news_documents()


# SpamAssassin


def test_mails_bear_the_label_of_their_folder_and_lose_their_headers(mails):
    corpus = spam_assassin_documents()
    assert np.bincount(corpus.labels).tolist() == [36, 24]
    assert not any("Subject" in text or "spam" in text for text in corpus.items)


def test_a_text_found_as_ham_and_spam_is_dropped(mails):
    (mails / "spam-1" / "0.json").write_bytes((mails / "easy-ham-1" / "0.json").read_bytes())
    corpus = spam_assassin_documents()
    assert np.bincount(corpus.labels).tolist() == [35, 23]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"text": 5}', b'{"text": null}', b"\xff", b"[" * 200_000, b" " * (1 << 20) + b"{}"],
    ids=["empty", "cut", "a list", "no text", "a number", "null", "no UTF-8", "deep", "too large"],
)
def test_a_damaged_mail_is_one_line_that_names_it(content, mails):
    (mails / "spam-2" / "3.json").write_bytes(content)
    with pytest.raises(PacklightError, match=r"spam-2.3\.json") as error:
        spam_assassin_documents()
    assert "\n" not in str(error.value)


# Brown


@pytest.fixture
def documents(home) -> Path:
    folder = home / "brown"
    folder.mkdir()
    for i in range(20):
        lines = (" ".join(f"{word}/nn" for word in sentence(20 * i + j, 9).split()) + " ./." for j in range(10))
        (folder / f"c{'abcd'[i % 4]}{i:02}").write_text("\n\n\n\t".join(lines) + "\n")
    (folder / "README").write_text("no document")
    return folder


def test_documents_are_words_with_the_ends_of_sentences(documents):
    (documents / "ca00").write_text("\n\tThe/at 1/2/cd ``/`` either/or/cc ./.\n\n\n\tYes/rb !/.\n")
    corpus = brown_documents()
    assert ("the", "1/2", "``", "either/or", ".", "<end>", "yes", "!", "<end>") in corpus.items
    assert np.bincount(corpus.labels).tolist() == [5, 5, 5, 5]
    assert [len(corpus.parts[part]) for part in ("train", "validation", "test")] == [14, 2, 4]


def test_targets_are_the_next_words_and_no_window_crosses_documents(documents):
    task = brown(length=8, words=100)
    words = task.preprocessing["words"]
    assert words[:2] == ["<unknown>", "<end>"] and len(words) == 100
    data = task.data("train")
    assert np.array_equal(data.inputs[0][:, 1:], data.targets[:, :-1])
    assert len(data) == 14 * (109 // 8)  # each document has 110 words with the ends of sentences
    assert data.targets.min() >= 0 and data.targets.max() < 100


def test_the_vocabulary_comes_from_training_alone(documents):
    corpus = brown_documents()
    (only_test,) = (corpus.items[i] for i in corpus.parts["test"][:1])
    assert len(brown(words=10_000).preprocessing["words"]) == 2 + len(
        {word for i in corpus.parts["train"] for word in corpus.items[i]} - {"<end>"}
    )
    assert only_test


@pytest.mark.parametrize("content", [b"", b"caf\xe9/nn"], ids=["empty", "no ASCII"])
def test_a_damaged_document_is_one_line_that_names_it(content, documents):
    (documents / "cb01").write_bytes(content)
    with pytest.raises(PacklightError, match=r"cb01 (is no ASCII text|holds no words); fetch the data again"):
        brown_documents()


@pytest.mark.parametrize("options", [{"length": 0}, {"length": 1.5}, {"words": 2}], ids=str)
def test_options_out_of_range_are_refused(options, documents):
    with pytest.raises(PacklightError, match="brown needs length in"):
        brown(**options)
