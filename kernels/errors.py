"""The two errors of this room that a caller may want to catch."""


class ModelFormatError(ValueError):
    """A model file or a model that the format cannot hold; the message names the field."""


class BackendUnavailable(RuntimeError):
    """Something this machine lacks (a compiler, an extra); the message says what adds it."""
