"""Output of a command whose reader may leave before the command has ended."""

import errno
import io
import os
import sys
from typing import Any

_READER_LEFT = (errno.EPIPE, errno.EIO)  # a pipe that nobody reads, a terminal that was closed


class _Unread(io.FileIO):
    """A file that throws away what is written to it as soon as nobody reads it."""

    def write(self, data: Any, /) -> int:
        """Write `data`, or nothing once the reader has left."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _READER_LEFT:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for all other writers in this process too
            os.close(null)
            return len(data)


def outlive_readers() -> None:
    """Let stdout and stderr of this process lose their reader (`spl fit | head`) without an error.

    A fit then goes on silently, and saves its checkpoints. Characters that the encoding of a stream lacks, such as the
    bytes of a path that are no text, are written as escapes.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and _is_file(stream):
            setattr(sys, name, _unread(stream))


def _is_file(stream: io.TextIOWrapper) -> bool:
    """Return whether a stream writes to a file descriptor, and is not one of `_unread`."""
    return type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO


def _unread(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream that writes where `stream` does."""
    stream.flush()
    file = _Unread(stream.fileno(), "wb", closefd=False)
    is_buffered = hasattr(stream.buffer, "raw")  # not so with `python -u`
    return io.TextIOWrapper(
        io.BufferedWriter(file) if is_buffered else file,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
