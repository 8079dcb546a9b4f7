"""Files of weights, as bytes, and read without executing anything in them."""

import io
from pathlib import Path
from typing import Any

import torch

from spl.errors import InputError


def serialized(contents: Any) -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


def serialized_size(contents: Any) -> int:
    """How many bytes `torch.save` writes."""
    counter = _Counter()
    torch.save(contents, counter)
    return counter.size


class _Counter(io.BytesIO):
    """A file that keeps nothing but its size."""

    size = 0

    def write(self, data: Any) -> int:
        """Count."""
        self.size += len(data)
        return len(data)


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
