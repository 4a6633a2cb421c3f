"""Write to the terminal without failing on a closed pipe or a full disk before a command is done."""

import contextlib
import os
from typing import Any, TextIO


class Output:
    """Text stream that records the first write error instead of raising it, so that no command is cut short.

    Args:
        stream: the underlying stream. None if it was closed before Python started.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        self._attempt("flush")

    def _attempt(self, name: str, *args: Any) -> None:
        """Call a method of the stream, and record its error."""
        if self._stream is None:
            return
        try:
            getattr(self._stream, name)(*args)
        except OSError as error:
            self.error = self.error or error
            # Otherwise the rest of the buffer would fail again at exit, and Python would report it.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
