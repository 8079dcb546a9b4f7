"""Checkpoints: written whole or not at all, and looked at before they are believed."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from spl.errors import InputError
from spl.files import read, serialized, write_whole

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


class WholeCheckpoints(TorchCheckpointIO):
    """A Trainer's plugin, by which a checkpoint takes its place once it is whole, and only whole ones are read.

    Lightning's own writes to the folder of temporary files, and from there copies into place where that is on another
    disk; a process that is killed, or a disk that fills up, leaves half a file there. Places that are not folders
    (`s3://…`) are left to it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it.

        Raises:
            InputError: there is no room for it; the one before is left as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        folder = Path(path).parent
        remedy = "make room, and start again or go on from an earlier checkpoint, which is whole, with --ckpt_path"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error}): {remedy}.") from error
        write_whole(path, serialized(checkpoint), remedy)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read it, executing nothing, whatever `weights_only` says.

        Raises:
            InputError: it is no whole checkpoint.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(path)


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
