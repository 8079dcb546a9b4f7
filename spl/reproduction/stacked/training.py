"""Train stacked runs, and resume them after an interruption."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spl.callbacks import LastCheckpoint
from spl.callbacks.lightning_private import ignore_stray_checkpoints
from spl.errors import InputError
from spl.files import read_checkpoint
from spl.lightning_api import LightningModule, Trainer
from spl.reproduction.stacked.compatibility import check_compatible, trainer_settings
from spl.reproduction.stacked.data import StackedData
from spl.reproduction.stacked.prepared_run import PreparedRun
from spl.reproduction.stacked.stacked_classifier import StackedClassifier


def train(runs: Sequence[PreparedRun], checkpoint: Path) -> None:
    """Train all runs together for their own number of steps, and leave in each run's folder what its `spl fit` would.

    Each network ends with the weights that `spl fit` would give it: bit for bit on one thread of a CPU where its layers
    are linear, elsewhere up to the rounding of the fused products. `best.ckpt` and `last.ckpt` hold weights and masks,
    but not the state of the optimizer: they serve to evaluate and to start from, not to resume.

    Args:
        runs: prepared runs of one architecture, optimizer, schedule, data set and length; see `compatibility`.
        checkpoint: file that keeps the state of all runs until they are done, written anew as each epoch begins. A file
            of the same runs is resumed, bit for bit on a CPU; a file of other runs is overwritten.

    Raises:
        InputError: the runs cannot be stacked.
        KeyboardInterrupt: on Ctrl-C; the checkpoint stays.
    """
    check_compatible(runs)
    model, data = StackedClassifier(runs), StackedData(runs)
    trainer = _trainer(runs[0].trainer, checkpoint)
    with _interruptible(trainer):
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint if _belongs_to(checkpoint, model) else None)
        if any(run.tested for run in runs):
            trainer.test(model, datamodule=data, verbose=False)
    model.write_checkpoints()
    for run in runs:
        for logger in run.trainer.loggers:
            logger.finalize("success")
    checkpoint.unlink(missing_ok=True)


class _StackCheckpoint(LastCheckpoint):
    """Saves the state of all runs as each epoch begins, and not at the end, when nobody needs it any more."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path, weights_only=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass


def _trainer(single: Trainer, checkpoint: Path) -> Trainer:
    """Return a Trainer with the settings of `single`, the Trainer of one of the runs."""
    device = single.strategy.root_device
    trainer = Trainer(
        **trainer_settings(single),
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        callbacks=[_StackCheckpoint(checkpoint)],
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=single.progress_bar_callback is not None,
    )
    ignore_stray_checkpoints(trainer)
    return trainer


def _belongs_to(checkpoint: Path, model: StackedClassifier) -> bool:
    """Return whether `checkpoint` exists and is of the runs in `model`; one that is damaged will be overwritten."""
    if not checkpoint.is_file():
        return False
    try:
        population = read_checkpoint(checkpoint).get("population")
    except InputError as error:
        print(f"{error} The training of these runs starts anew.", flush=True)
        return False
    return isinstance(population, dict) and bool(population.get("fingerprint") == model.fingerprint)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Lightning turns into an exit or swallows, depending on its version."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)  # Lightning has disabled it
        raise KeyboardInterrupt
