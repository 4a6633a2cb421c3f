"""Text as a sequence of tokens: by words, with the Zipf tail that carries the growth, or by characters for contrast.

The embedded text is the documentation that Python's standard library carries (`pydoc_data.topics`), so nothing has to be
downloaded. It differs between Python versions: its sha256 goes into every provenance.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctadam.data import VARIABLE, data_directory
from ctadam.errors import ArtifactError

#: The text that the paper's own experiments use; fetched only when asked for, and checked.
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

#: What it is called in the data directory.
SHAKESPEARE_FILE = "shakespeare.txt"

TOKENIZATIONS = ("words", "characters")


@dataclass(frozen=True)
class Corpus:
    """A tokenized text, split in two contiguous parts.

    Attributes:
        train: int64 tensor of shape (train tokens,).
        test: int64 tensor of shape (test tokens,), the last part of the text.
        vocabulary: the distinct tokens, sorted; a token's id is its index.
        sha256: of the text in UTF-8, before tokenization.
    """

    train: torch.Tensor
    test: torch.Tensor
    vocabulary: tuple[str, ...]
    sha256: str


def read_text(source):
    """The text named by ``source``: ``"pydoc"`` (embedded), ``"shakespeare"`` (downloaded, checked) or a file's path.

    Raises:
        ArtifactError: no such file, not UTF-8, or a download that fails.
    """
    if source == "pydoc":
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    path = _shakespeare() if source == "shakespeare" else Path(os.path.expanduser(source))
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot read the text {source!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"the text {source!r} is not UTF-8 (byte {error.start})") from error


def _shakespeare():
    """The path of the text, in the data directory."""
    directory = data_directory()
    path = directory / SHAKESPEARE_FILE
    # pooch, which would check the same, is not on every machine that trains.
    if path.is_file():
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHAKESPEARE_SHA256:
            raise ArtifactError(f"{path} is not the text that it should be (its sha256 is another): remove it")
        return path
    try:
        import pooch

        return pooch.retrieve(
            SHAKESPEARE_URL, known_hash=f"sha256:{SHAKESPEARE_SHA256}", fname=SHAKESPEARE_FILE, path=directory
        )
    except Exception as error:  # requests' errors are not ours to enumerate
        raise ArtifactError(
            f"could not download Shakespeare's text to {path} ({type(error).__name__}); without a network, put it there (from "
            f"{SHAKESPEARE_URL}), {VARIABLE} being the directory, or set the text to the path of another"
        ) from error


def tokenize(text, tokenization):
    """Split a text into ``"words"`` (runs of word characters; every other visible character alone) or ``"characters"``."""
    if tokenization == "words":
        return re.findall(r"\w+|[^\w\s]", text)
    if tokenization == "characters":
        return list(text)
    raise ArtifactError(f"unknown tokenization {tokenization!r}; known: {', '.join(TOKENIZATIONS)}")


def load_corpus(source, *, tokenization, test_fraction, context, limit=None):
    """Read, tokenize and split a text.

    Args:
        source: see `read_text`.
        tokenization: see `tokenize`.
        test_fraction: part of the tokens, at the end of the text, kept for the test loss; in (0, 1).
        context: sequence length that both parts must be able to serve.
        limit: use the first so many tokens of the text, the rest as if it were not there; all if None.

    Raises:
        ArtifactError: an unreadable text, or one too short for a sequence of ``context`` + 1 tokens in each part.
    """
    text = read_text(source)
    tokens = np.array(tokenize(text, tokenization)[:limit], dtype=object)
    vocabulary, ids = np.unique(tokens.astype(str), return_inverse=True) if len(tokens) else ((), np.zeros(0, int))
    cut = len(ids) - int(len(ids) * test_fraction)
    if min(cut, len(ids) - cut) < context + 1:
        raise ArtifactError(
            f"the text {source!r} has {len(ids)} {tokenization}: too short for training and test sequences of "
            f"{context} tokens with test_fraction={test_fraction}"
        )
    ids = torch.from_numpy(ids.astype(np.int64))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(ids[:cut], ids[cut:], tuple(map(str, vocabulary)), digest)


def windows(tokens, starts, *, context):
    """The windows of a token sequence that begin at ``starts``, int64 of any shape: (inputs, targets), each (..., context)."""
    found = tokens[starts[..., None] + torch.arange(context + 1, device=starts.device)]
    return found[..., :-1], found[..., 1:]


def batches(tokens, *, batch, context, generator):
    """Endless random windows of a token sequence: pairs (inputs, targets), each of shape (batch, context).

    Args:
        tokens: int64 tensor of shape (n,), n > context.
        generator: CPU `torch.Generator`; the same state gives the same windows on every device.
    """
    while True:
        yield windows(tokens, torch.randint(len(tokens) - context, (batch,), generator=generator), context=context)
