"""WholeCheckpoints: a Trainer's checkpoints, written whole or not at all."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from spl.errors import InputError
from spl.files import read_checkpoint, serialized, write_whole


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
