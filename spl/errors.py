"""The exceptions of this package, for input that cannot be used and training that diverges."""


class InputError(ValueError):
    """An error in what the user gave: the message says what was received and what to do.

    The `spl` command prints the message alone, without a traceback, and exits with status 2.
    """


class DivergedError(InputError):
    """An error that ends training once the loss is NaN or infinite: the configuration cannot be trained as it is."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
