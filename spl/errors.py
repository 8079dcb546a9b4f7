"""The exceptions for what cannot be done as it was asked for, and what others say."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was received and what to do.

    The `spl` command prints the message alone, without a traceback, and exits with status 2.
    """


class DivergedError(InputError):
    """Training has diverged: what was asked for cannot be trained as it is."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its type, where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
