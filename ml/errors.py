"""Errors a person is meant to read: what was wrong, what was expected, what to do."""


class HemlineError(Exception):
    """An error with a message for the person who runs Hemline."""


class BadInputError(HemlineError):
    """An input (file, row, setting) that does not meet its contract; the message names it."""
