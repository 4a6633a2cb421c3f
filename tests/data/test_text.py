"""Test texts: tokenization, the split, batches, and invalid texts."""

import hashlib
import sys

import pytest
import torch

from ctadam.data import images, text
from ctadam.errors import ArtifactError

SETTINGS = {"test_fraction": 0.1, "context": 8}


def test_embedded_text_has_a_zipf_tail():
    corpus = text.load_corpus("pydoc", tokenization="words", **SETTINGS)
    counts = torch.bincount(torch.cat([corpus.train, corpus.test]), minlength=len(corpus.vocabulary))
    assert len(corpus.vocabulary) > 3000 and counts.min() == 1
    assert (counts == 1).float().mean() > 0.2  # the rows that will not be seen for long
    assert corpus.sha256 == hashlib.sha256(text.read_text("pydoc").encode()).hexdigest()
    characters = text.load_corpus("pydoc", tokenization="characters", **SETTINGS)
    assert len(characters.vocabulary) < 200


def test_tokens_reproduce_the_text(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("Der Hund, der bellt, beißt nicht! " * 20, encoding="utf-8")
    corpus = text.load_corpus(str(path), tokenization="words", **SETTINGS)
    words = [corpus.vocabulary[i] for i in torch.cat([corpus.train, corpus.test])]
    assert words[:9] == ["Der", "Hund", ",", "der", "bellt", ",", "beißt", "nicht", "!"]
    assert len(words) == 180 and len(corpus.test) == 18
    assert list(corpus.vocabulary) == sorted(set(words))
    letters = text.load_corpus(str(path), tokenization="characters", **SETTINGS)
    assert (
        "".join(letters.vocabulary[i] for i in letters.train) == path.read_text(encoding="utf-8")[: len(letters.train)]
    )


def test_batches_are_windows_and_targets_are_the_next_tokens():
    tokens = torch.arange(100)

    def first(seed):
        return next(text.batches(tokens, batch=4, context=8, generator=torch.Generator().manual_seed(seed)))

    inputs, targets = first(0)
    assert inputs.shape == targets.shape == (4, 8)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs[:, 1:] - inputs[:, :-1], torch.ones(4, 7, dtype=torch.int64))
    assert torch.equal(first(0)[0], inputs) and not torch.equal(first(1)[0], inputs)
    # The last window is reachable, and none runs over the end.
    every = next(text.batches(tokens[:10], batch=200, context=8, generator=torch.Generator().manual_seed(0)))[1]
    assert every.max() == 9 and every.min() == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot read the text"),
        (b"\xff\xfe bad", "is not UTF-8"),
        (b"", "has 0 words: too short"),
        (b"one two three", "has 3 words"),
    ],
)
def test_invalid_texts_raise(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        text.load_corpus(str(path), tokenization="words", **SETTINGS)


def test_home_of_an_unknown_user_raises():
    with pytest.raises(ArtifactError, match="cannot read the text '~nobody-by-this-name/text'"):
        text.read_text("~nobody-by-this-name/text")
    with pytest.raises(ArtifactError, match="no images in '~nobody-by-this-name/images'"):
        images.load_images("~nobody-by-this-name/images")


def test_unknown_tokenization_raises():
    with pytest.raises(ArtifactError, match="unknown tokenization 'bytes'; known: words, characters"):
        text.load_corpus("pydoc", tokenization="bytes", **SETTINGS)


def test_shakespeare_is_downloaded_and_checked_and_a_failure_explains_the_fix(tmp_path, monkeypatch):
    import pooch

    monkeypatch.setenv("CTADAM_DATA", str(tmp_path))
    calls = []
    local = tmp_path / "elsewhere.txt"
    local.write_text("To be, or not to be")

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash, path / fname))
        return str(local)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert text.read_text("shakespeare") == "To be, or not to be"
    file = tmp_path / "shakespeare.txt"
    assert calls == [(text.SHAKESPEARE_URL, f"sha256:{text.SHAKESPEARE_SHA256}", file)]

    def fail(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(ArtifactError, match=r"put it there.*CTADAM_DATA"):
        text.read_text("shakespeare")
    file.write_text("To be, or not to be")
    with pytest.raises(ArtifactError, match="does not have the expected sha256"):
        text.read_text("shakespeare")


def test_downloaded_text_needs_no_network_or_pooch(tmp_path, monkeypatch):
    monkeypatch.setenv("CTADAM_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    content = b"To be, or not to be"
    (tmp_path / "shakespeare.txt").write_bytes(content)
    monkeypatch.setattr(text, "SHAKESPEARE_SHA256", hashlib.sha256(content).hexdigest())
    assert text.read_text("shakespeare") == content.decode()
