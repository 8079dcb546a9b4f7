"""Files that are written whole or not at all, and read without executing anything in them."""

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
    """Write `data` to a file, which then takes the place of the one at `path`, if there is one.

    `data` are complete before a file is opened: PyTorch's own writing may end the process on a full disk.

    Raises:
        InputError: the folder is not there, or is not one that can be written to; with what to do, the `remedy`.
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
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


def serialized_size(contents: Any) -> int:
    """How many bytes `torch.save` writes, of which none is kept."""
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


def read(path: str | Path, kind: str, maker: str) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain values, every byte of them checked.

    PyTorch itself does not compare a file with the checksums that are in it, and takes changed weights for good ones.

    Args:
        path: of the file.
        kind: what it should be, for messages.
        maker: the command that makes such files.

    Raises:
        InputError: there is no such file, it is not whole, or it has something to execute.
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
            raise zipfile.BadZipFile(f"{damaged} does not have its checksum")


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, zipfile.BadZipFile | zlib.error):
        return f"it is truncated, damaged, or something else ({error})"
    if isinstance(error, pickle.UnpicklingError):
        with suppress(Exception):  # of a pickle that is none
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
    """A checkpoint, on the CPU.

    Raises:
        InputError: there is no such file, it is not whole, has something to execute, or is no checkpoint.
    """
    if Path(path, "meta.pt").is_file():  # beside the shards, as FSDP's strategies write them
        raise InputError(
            f"{path} is a folder of shards, whose index is a pickle that could execute anything: if you wrote it, make "
            f"a file of it, python -m pytorch_lightning.utilities.consolidate_checkpoint {path}."
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
