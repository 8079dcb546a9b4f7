"""Functions that read a file of tensors without executing anything in it."""

import pickle
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from spl.errors import InputError, first_line


def read(path: str | Path, kind: str, maker: str) -> Any:
    """Read tensors and plain values that `torch.save` wrote, onto the CPU, and verify the checksums of the file.

    PyTorch itself does not compare a file with the checksums in it, and so accepts weights that were changed.

    Args:
        path: the file to read.
        kind: what the file should be, such as "checkpoint"; for messages.
        maker: the command that writes such files; for messages.

    Raises:
        InputError: there is no such file, it is incomplete or damaged, or it contains code to execute.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from spl.files import read, serialized, write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "masks.pt"), serialized({"sparsity": 0.9}))
        ...     read(Path(folder, "masks.pt"), "file of masks", "torch.save")
        {'sparsity': 0.9}
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no {kind} {path}: give the path of one that `{maker}` wrote.")
    try:
        _check_whole(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a {kind}, {_reason(path, error)}: give one that `{maker}` wrote, such as an "
            "earlier one."
        ) from error


def _check_whole(path: Path) -> None:
    """Verify the checksums of an archive, after checking that it cannot be larger in memory than on disk."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("it is compressed, and torch.save compresses nothing")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are larger together than the file")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, zipfile.BadZipFile | zlib.error):
        return f"it is truncated, damaged, or something else ({error})"
    if isinstance(error, pickle.UnpicklingError):
        with suppress(Exception):  # raised for a file that is no pickle at all
            if names := get_unsafe_globals_in_checkpoint(path):
                return f"it has more than tensors and plain values ({', '.join(names)}), and nothing in it is executed"
    return f"it is damaged ({first_line(error)})"
