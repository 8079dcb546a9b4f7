"""Functions that write a file completely or not at all, and read one without executing anything in it."""

import io
import os
import pickle
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from spl.errors import InputError, first_line


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
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
    with zipfile.ZipFile(path) as archive:
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


_KINDS: dict[str, type] = {
    "state_dict": dict,
    "masks": dict,
    "loops": dict,
    "callbacks": dict,
    "hyper_parameters": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "epoch": int,
    "global_step": int,
}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning onto the CPU.

    Raises:
        InputError: there is no such file, it is incomplete or damaged, contains code to execute, or is no checkpoint.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from spl.files import read_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {}, "epoch": 3}, Path(folder, "last.ckpt"))
        ...     read_checkpoint(Path(folder, "last.ckpt"))
        {'state_dict': {}, 'epoch': 3}
    """
    if Path(path, "meta.pt").is_file():  # FSDP's strategies write it beside the shards
        raise InputError(
            f"{path} is a folder of shards, and its index is a pickle that could execute anything: if you wrote it, "
            f"convert it to one file with python -m pytorch_lightning.utilities.consolidate_checkpoint {path}."
        )
    checkpoint = read(path, "checkpoint", "spl fit")
    if type(checkpoint) is not dict or "state_dict" not in checkpoint:
        raise InputError(f"{path} is no checkpoint: it has no state_dict. Give a .ckpt file that `spl fit` wrote.")
    wrong = [
        f"{key} is {type(checkpoint[key]).__name__}, not {kind.__name__}"
        for key, kind in _KINDS.items()
        if not isinstance(checkpoint.get(key, kind()), kind)
    ]
    if wrong:
        raise InputError(f"{path} was changed after it was written: {', '.join(wrong)}. Give another checkpoint.")
    return checkpoint
