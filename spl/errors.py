"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was received and what to do.

    The `spl` command prints the message alone, without a traceback, and exits with status 2.
    """
