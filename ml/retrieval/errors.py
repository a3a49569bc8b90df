"""Errors that callers of the retrieval models may want to catch."""

from ml.errors import HemlineError


class NothingToTrain(HemlineError):
    """There is no training example at all: the caller falls back (for titles, to the pretrained text encoder)."""
