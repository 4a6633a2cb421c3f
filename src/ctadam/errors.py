"""The error that ends a command with a one-line message instead of a traceback."""


class ArtifactError(Exception):
    """An error that the user can fix, such as an invalid parameter or a missing or damaged file; the message says how."""
