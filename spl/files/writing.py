"""Functions that write a file completely or not at all."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from spl.errors import InputError


def write_whole(path: str | Path, data: bytes, remedy: str = "give a path in a folder with room for it") -> None:
    """Write `data` to a temporary file, which then replaces the file at `path`, if there is one.

    The caller serializes `data` before a file is opened, because PyTorch's own writer may end the process on a full
    disk.

    Args:
        path: the file to write.
        data: everything that it is to contain.
        remedy: what the user can do if it cannot be written; the end of the error's message.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from spl.files import write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "notes.txt"), b"sparse")
        ...     print(Path(folder, "notes.txt").read_text(), len(list(Path(folder).iterdir())))
        sparse 1
    """
    path = Path(path)
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.part")  # a name may have 255 bytes, and not more
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except (OSError, ValueError) as error:  # a ValueError for bytes that no path can have
        with suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error}): {remedy}.") from error


def serialized(contents: Any) -> bytes:
    """Return the bytes that `torch.save` writes for `contents`.

    Example:
        >>> import io
        >>> import torch
        >>> from spl.files import serialized
        >>> torch.load(io.BytesIO(serialized({"epoch": 3})), weights_only=True)
        {'epoch': 3}
    """
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


def serialized_size(contents: Any) -> int:
    """Return how many bytes `torch.save` writes for `contents`, without keeping them.

    Example:
        >>> import torch
        >>> from spl.files import serialized, serialized_size
        >>> weights = {"fc.weight": torch.ones(8, 8)}
        >>> serialized_size(weights) == len(serialized(weights))
        True
    """
    counter = _Counter()
    torch.save(contents, counter)
    return counter.size


class _Counter(io.BytesIO):
    """A file that remembers only its size."""

    size = 0

    def write(self, data: Any) -> int:
        """Add the length of `data` to the size."""
        self.size += len(data)
        return len(data)
