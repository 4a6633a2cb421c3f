"""Data sets: embedded in installed packages, downloaded once, or read from the user's files."""

import os
from pathlib import Path

#: Environment variable with the directory of downloaded data. Files that are already there are checked, not downloaded.
VARIABLE = "CTADAM_DATA"


def data_directory() -> Path:
    """Return the directory of downloads: ``$CTADAM_DATA``, or the user's cache directory."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    import pooch

    return Path(pooch.os_cache("ctadam"))
