"""The function that reads a checkpoint and checks its structure."""

from pathlib import Path
from typing import Any

from spl.errors import InputError
from spl.files.tensors import read
from spl.lightning_api import module_name

_KINDS: dict[str, type] = {
    "state_dict": dict,
    "masks": dict,
    "loops": dict,
    "callbacks": dict,
    "hyper_parameters": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
_COUNTERS = ("epoch", "global_step")
_MOST = 2**53  # beyond it, numbers of steps are not exact in the files of events


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
            f"convert it to one file with python -m {module_name('pytorch.utilities.consolidate_checkpoint')} {path}."
        )
    checkpoint = read(path, "checkpoint", "spl fit")
    if type(checkpoint) is not dict or "state_dict" not in checkpoint:
        raise InputError(f"{path} is no checkpoint: it has no state_dict. Give a .ckpt file that `spl fit` wrote.")
    wrong = [
        f"{key} is {type(checkpoint[key]).__name__}, not {kind.__name__}"
        for key, kind in _KINDS.items()
        if not isinstance(checkpoint.get(key, kind()), kind)
    ]
    wrong += [
        f"{key} is {str(checkpoint[key])[:30]}, not a whole number from 0 to 2⁵³"
        for key in _COUNTERS
        if not is_count(checkpoint.get(key, 0))
    ]
    if wrong:
        raise InputError(f"{path} was changed after it was written: {', '.join(wrong)}. Give another checkpoint.")
    return checkpoint


def is_count(value: object) -> bool:
    """Return whether a value is a whole number in the range that numbers of steps and epochs can have.

    Example:
        >>> from spl.files.checkpoint import is_count
        >>> is_count(3), is_count(-1), is_count(1e30), is_count(True)
        (True, False, False, False)
    """
    return type(value) is int and 0 <= value <= _MOST
