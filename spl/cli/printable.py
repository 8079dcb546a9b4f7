"""Text from files and command lines, printed without what a terminal would obey."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO, cast


def printable(text: str) -> str:
    """Return a text with its control characters as escapes, apart from line breaks.

    A path or a name in a file may have a sequence that clears the screen or changes its title.

    Example:
        >>> from spl.cli.printable import printable
        >>> print(printable("There is no checkpoint \\x1b[2J."))
        There is no checkpoint \\x1b[2J.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def printable_errors() -> Iterator[None]:
    """Write to stderr only what is printable; a parser repeats words of the command line in its messages."""
    with redirect_stderr(cast(TextIO, _Printable(sys.stderr))):
        yield


class _Printable:
    """A stream that makes text printable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
