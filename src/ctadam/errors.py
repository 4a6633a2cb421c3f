"""The error that ends a command with a one-line message instead of a traceback."""

import contextlib
import linecache
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("ctadam")


class ArtifactError(Exception):
    """An error that the user can fix, such as an invalid parameter or a missing or damaged file; the message says how."""


@contextlib.contextmanager
def lookup_errors(results: str | Path) -> Iterator[None]:
    """Convert failed lookups within a ``with`` block into errors of one line.

    Args:
        results: directory of the results, for the message.

    Raises:
        ArtifactError: if a column of a table or a key of a constant of this package is missing.
    """
    try:
        yield
    except (KeyError, NameError) as error:  # NameError: pandas' query
        if isinstance(error, NameError) and not type(error).__module__.startswith("pandas"):
            raise
        log.debug("", exc_info=True)
        constant = _constant(error)
        if constant:
            raise ArtifactError(f"{constant} has no entry for {error}: add one") from error
        raise ArtifactError(
            f"a table in {results} lacks what this code asks for ({error}): it was made by other code; make it again"
        ) from error


def _constant(error: BaseException) -> str | None:
    """Return file and name of the constant of this package in which a key was not found.

    Returns:
        Text such as ``experiments/growth/figure.py: AVERAGES``. None if another lookup failed, such as that of a column.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    package = Path(__file__).parent
    if not Path(frame.filename).is_relative_to(package):
        return None
    if frame.lineno is None or frame.colno is None or frame.end_lineno != frame.lineno:
        return None
    # Traceback columns count bytes, not characters.
    line = linecache.getline(frame.filename, frame.lineno).encode()
    name = line[frame.colno : frame.end_colno].decode(errors="replace").partition("[")[0]
    if not name.rpartition(".")[2].isupper():
        return None
    return f"{Path(frame.filename).relative_to(package).as_posix()}: {name}"
