"""The exceptions of this package, for input that cannot be used and training that diverges."""


class InputError(ValueError):
    """An error in what the user gave: the message says what was received and what to do.

    The `spl` command prints the message alone, without a traceback, and exits with status 2.

    Example:
        >>> from spl import InputError
        >>> from spl.pruning import check_sparsity
        >>> try:
        ...     check_sparsity(1.5)
        ... except InputError as error:
        ...     print(error)
        sparsity must lie in [0, 1), got 1.5...
    """


class DivergedError(InputError):
    """An error that ends training once the loss is NaN or infinite: the configuration cannot be trained as it is.

    Example:
        >>> from spl.errors import DivergedError, InputError
        >>> issubclass(DivergedError, InputError)
        True
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message.

    Example:
        >>> from spl.errors import first_line
        >>> first_line(ValueError("no such layer\\nfc9")), first_line(KeyboardInterrupt())
        ('no such layer', 'KeyboardInterrupt')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)
