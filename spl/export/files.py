"""Files that are written whole or not at all, and read without executing anything in them."""

import io
import os
from pathlib import Path
from typing import Any

import torch

from spl.errors import InputError


def serialized(contents: Any) -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


def write_whole(path: str | Path, data: bytes) -> None:
    """Write `data` to a file, which then takes the place of the one at `path`, if there is one.

    `data` are complete before a file is opened: PyTorch's own writing may end the process on a full disk.

    Raises:
        InputError: the folder is not there, or is not one that can be written to.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error}): give a path in a folder with room for it.") from error


def read(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU.

    Raises:
        InputError: there is no such file, or it is not whole.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}: give the path of one that `spl export` wrote.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read, truncated or no file of weights: export it again.") from error
