"""LastCheckpoint: the newest state of every fit, whatever else is kept."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.callbacks.trainer import run_folder


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` in the run's folder once in every epoch but the first, and when training ends.

    The `save_last` of a ModelCheckpoint that keeps the best is as old as the best. In an epoch it is written after the
    first step, not when the epoch before ends: there, Lightning resumes a fit that counts steps (`max_steps`) at the
    wrong epoch, and so in another order (its issue 19617).

    Beside it every checkpoint of the Trainer is written whole or not at all: see `WholeCheckpoints`.
    """

    def __init__(self) -> None:
        self._step_before: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's own way of writing and reading checkpoints; another way, of the user, stands."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the epoch begins."""
        self._step_before = trainer.global_step if trainer.current_epoch > 0 else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write after the first step of an epoch."""
        if self._step_before is not None and trainer.global_step > self._step_before:
            self._step_before = None
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        save_last(trainer)


def save_last(trainer: Trainer) -> Path:
    """Write the state of a fit to `checkpoints/last.ckpt` in the run's folder, by all processes together: its path."""
    folder = (run_folder(trainer) or Path(trainer.default_root_dir)) if trainer.is_global_zero else Path()
    path: Path = trainer.strategy.broadcast(folder / "checkpoints" / "last.ckpt")  # of the process that logs
    trainer.save_checkpoint(path, weights_only=False)
    return path
