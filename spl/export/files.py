"""Files that are written whole or not at all, and read without executing anything in them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from spl.errors import InputError


def write_whole(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file, which then takes the place of the one at `path`, if there is one.

    Raises:
        InputError: the folder is not there, or is not one that can be written to.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}): give a path in a folder with room for it.") from error
    finally:
        partial.unlink(missing_ok=True)


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
