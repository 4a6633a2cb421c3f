"""What the models learn: texts and images that every installation has, others that are downloaded once, and others by path."""

import os
from pathlib import Path

#: Environment variable: the directory of downloaded data. What lies there already is checked, and not downloaded.
VARIABLE = "CTADAM_DATA"


def data_directory():
    """Where downloads are kept: ``$CTADAM_DATA``, or the user's cache directory."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    import pooch

    return Path(pooch.os_cache("ctadam"))
