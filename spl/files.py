"""Files that are written whole or not at all."""

import os
from pathlib import Path

from spl.errors import InputError


def write_whole(path: str | Path, data: bytes) -> None:
    """Write `data` to a file, which then takes the place of the one at `path`, if there is one.

    `data` are complete before a file is opened: PyTorch's own writing may end the process on a full disk.

    Raises:
        InputError: the folder is not there, or is not one that can be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error}): give a path in a folder with room for it.") from error
