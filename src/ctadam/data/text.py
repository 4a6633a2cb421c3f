"""Text as a token sequence: words, whose Zipf tail drives the growth of updates, or characters for contrast.

The embedded text is the documentation in Python's standard library (`pydoc_data.topics`), so nothing is downloaded. It
differs between Python versions, so its sha256 is part of every provenance record.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctadam.data import VARIABLE, data_directory
from ctadam.errors import ArtifactError

#: The text of the paper's own experiments. Downloaded only on request, and checked.
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

#: Its file name in the data directory.
SHAKESPEARE_FILE = "shakespeare.txt"

TOKENIZATIONS = ("words", "characters")


@dataclass(frozen=True)
class Corpus:
    """A tokenized text, split into two contiguous parts.

    Attributes:
        train: int64 tensor of shape (train tokens,).
        test: int64 tensor of shape (test tokens,), the end of the text.
        vocabulary: the distinct tokens, sorted; a token's id is its index.
        sha256: hash of the text in UTF-8, before tokenization.
    """

    train: torch.Tensor
    test: torch.Tensor
    vocabulary: tuple[str, ...]
    sha256: str


def read_text(source: str) -> str:
    """Return a text: ``"pydoc"`` (embedded), ``"shakespeare"`` (downloaded and checked) or the file at a path.

    Raises:
        ArtifactError: if the file is missing or not UTF-8, or a download fails.
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


def _shakespeare() -> str | Path:
    """Return the path of the Shakespeare text; download it if it is not in the data directory."""
    directory = data_directory()
    path = directory / SHAKESPEARE_FILE
    # pooch would check the hash too, but is not installed on every machine that trains.
    if path.is_file():
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHAKESPEARE_SHA256:
            raise ArtifactError(f"{path} does not have the expected sha256: remove it")
        return path
    try:
        import pooch

        return pooch.retrieve(
            SHAKESPEARE_URL, known_hash=f"sha256:{SHAKESPEARE_SHA256}", fname=SHAKESPEARE_FILE, path=directory
        )
    except Exception as error:  # requests can raise many types
        raise ArtifactError(
            f"cannot download Shakespeare's text to {path} ({type(error).__name__}); without a network, get it from "
            f"{SHAKESPEARE_URL} and put it there ({VARIABLE} sets the directory), or set the text to another file's path"
        ) from error


def tokenize(text: str, tokenization: str) -> list[str]:
    """Split a text into ``"words"`` (runs of word characters; other visible characters alone) or ``"characters"``.

    Raises:
        ArtifactError: if the tokenization is unknown.
    """
    if tokenization == "words":
        return re.findall(r"\w+|[^\w\s]", text)
    if tokenization == "characters":
        return list(text)
    raise ArtifactError(f"unknown tokenization {tokenization!r}; known: {', '.join(TOKENIZATIONS)}")


def load_corpus(
    source: str, *, tokenization: str, test_fraction: float, context: int, limit: int | None = None
) -> Corpus:
    """Read, tokenize and split a text.

    Args:
        source: see `read_text`.
        tokenization: see `tokenize`.
        test_fraction: share of the tokens, at the end of the text, used for the test loss; in (0, 1).
        context: sequence length, in tokens.
        limit: use only the first ``limit`` tokens of the text; all if None.

    Raises:
        ArtifactError: if the text is unreadable or a part is shorter than ``context`` + 1 tokens.
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
    encoded = torch.from_numpy(ids.astype(np.int64))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(encoded[:cut], encoded[cut:], tuple(map(str, vocabulary)), digest)


def windows(tokens: torch.Tensor, starts: torch.Tensor, *, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the windows of a token sequence that begin at ``starts``.

    Args:
        tokens: int64 tensor of shape (n,).
        starts: int64 tensor of any shape (...).
        context: window length, in tokens.

    Returns:
        ``(inputs, targets)``, each of shape (..., context); targets are the next tokens.
    """
    sequences = tokens[starts[..., None] + torch.arange(context + 1, device=starts.device)]
    return sequences[..., :-1], sequences[..., 1:]


def batches(
    tokens: torch.Tensor, *, batch: int, context: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield random windows of a token sequence without end: pairs (inputs, targets), each of shape (batch, context).

    Args:
        tokens: int64 tensor of shape (n,), n > context.
        batch: number of windows per batch.
        context: window length, in tokens.
        generator: CPU generator; the same state gives the same windows on every device.
    """
    while True:
        yield windows(tokens, torch.randint(len(tokens) - context, (batch,), generator=generator), context=context)
