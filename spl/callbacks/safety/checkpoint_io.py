"""A plugin of the Trainer that writes checkpoints completely or not at all."""

from pathlib import Path
from typing import Any

from spl.callbacks.safety.training_state import check_training_state
from spl.errors import InputError
from spl.files import read_checkpoint, serialized, write_whole
from spl.lightning_api import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """A plugin of the Trainer that puts a checkpoint in place once it is complete, and reads only complete ones.

    Lightning's own plugin writes to the folder of temporary files, and copies from there if the target is on another
    disk. If the process is killed or the disk fills up meanwhile, half a file is left in place. Targets that are not on
    a file system (`s3://…`) are still written and read by Lightning's plugin.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
        >>> trainer = Trainer(plugins=[WholeCheckpoints()], logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to `path`.

        Raises:
            InputError: it cannot be written, for example because the disk is full; a previous file is left unchanged.
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
        """Read a checkpoint without executing anything in it, whatever `weights_only` says.

        Raises:
            InputError: the file is incomplete, is no checkpoint, or has a state from which training cannot go on.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        checkpoint = read_checkpoint(path)
        check_training_state(checkpoint, path)
        return checkpoint
