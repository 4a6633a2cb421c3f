"""The error that ends a command with one line instead of a traceback."""


class ArtifactError(Exception):
    """Something the user can put right: a bad parameter, a missing or damaged file. The message says how."""
