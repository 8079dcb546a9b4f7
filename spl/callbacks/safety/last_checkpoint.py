"""A callback that keeps a checkpoint of the newest state of a fit."""

from pathlib import Path
from typing import Any

from spl.callbacks.base import check_package
from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.callbacks.safety.restored_optimizers import check_restored, refused
from spl.callbacks.trainer import run_folder
from spl.lightning_api import Checkpoint, LightningModule, TorchCheckpointIO, Trainer


class LastCheckpoint(Checkpoint):
    """A callback that writes `checkpoints/last.ckpt` once in every epoch except the first, and when training ends.

    The file is in the run's folder. The `save_last` of a ModelCheckpoint that keeps the best epoch is only as new as
    the best. This callback writes after the first step of an epoch, not at the end of the previous epoch: from a
    checkpoint written there, Lightning resumes a fit that counts steps (`max_steps`) at the wrong epoch, and so in
    another order (its issue 19617).

    The callback also makes the Trainer write every checkpoint completely or not at all: see `WholeCheckpoints`. It
    refuses checkpoints from whose optimizer state training cannot go on.

    Raises:
        InputError: in a resumed `fit`, the state of an optimizer or a schedule is not that of this fit.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl.callbacks import LastCheckpoint
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Trainer(callbacks=[LastCheckpoint()], default_root_dir=root, max_steps=1, **quiet).fit(BoringModel())
        ...     [path.name for path in Path(root, "checkpoints").iterdir()]
        ['last.ckpt']
    """

    def __init__(self) -> None:
        self._step_before: int | None = None
        self._resumed_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's own plugin for checkpoints; leave another one that the user has chosen."""
        check_package(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        self._resumed_step = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what a resumed fit has restored."""
        if trainer.ckpt_path:
            check_restored(trainer)
            self._resumed_step = trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say of a resumed fit whose first step fails in its optimizer that the checkpoint is not of this fit."""
        if self._resumed_step is not None and trainer.global_step <= self._resumed_step + 1:
            error = refused(trainer, exception)
            if error is not None:
                raise error from exception

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the step at which the epoch begins."""
        self._step_before = trainer.global_step if trainer.current_epoch > 0 else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint after the first step of an epoch."""
        if self._step_before is not None and trainer.global_step > self._step_before:
            self._step_before = None
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint of the final state."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        save_last(trainer)


def save_last(trainer: Trainer) -> Path:
    """Write `checkpoints/last.ckpt` in the run's folder and return its path; all processes must call this."""
    folder = (run_folder(trainer) or Path(trainer.default_root_dir)) if trainer.is_global_zero else Path()
    path: Path = trainer.strategy.broadcast(folder / "checkpoints" / "last.ckpt")  # known to the first process
    trainer.save_checkpoint(path, weights_only=False)
    return path
