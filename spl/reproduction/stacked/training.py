"""Trains a population, and resumes one that was interrupted."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer

from spl.callbacks import LastCheckpoint
from spl.files import read_checkpoint
from spl.reproduction.stacked.compatibility import check, trainer_settings
from spl.reproduction.stacked.data import PopulationData
from spl.reproduction.stacked.prepared_run import Member
from spl.reproduction.stacked.stacked_classifier import Population


def train(members: Sequence[Member], checkpoint: Path) -> None:
    """Train all together for their own number of steps, and leave in each run's folder what its `spl fit` would.

    Each member ends with the weights of its own run: bit for bit on one thread of a CPU where its layers are linear,
    elsewhere up to the rounding of the fused products. `best.ckpt` and `last.ckpt` hold weights and masks, not the
    state of the optimizer: to evaluate and to start from, not to resume.

    Args:
        members: of one architecture, optimizer, schedule, data set and length; see `compatibility`.
        checkpoint: where the state of the whole is kept, renewed as each epoch begins, until all is done. One that
            is there and is of these members is resumed, bit for bit on a CPU; another is overwritten.

    Raises:
        InputError: the members cannot be trained as one.
        KeyboardInterrupt: on Ctrl-C; the checkpoint stays.
    """
    check(members)
    population, data = Population(members), PopulationData(members)
    trainer = _trainer(members[0].trainer, checkpoint)
    with _interruptible(trainer):
        trainer.fit(population, datamodule=data, ckpt_path=checkpoint if _is_of(checkpoint, population) else None)
        if any(member.tested for member in members):
            trainer.test(population, datamodule=data, verbose=False)
    population.write_checkpoints()
    for member in members:
        for logger in member.trainer.loggers:
            logger.finalize("success")
    checkpoint.unlink(missing_ok=True)


class _State(LastCheckpoint):
    """The state of the whole population, which is of no use once training has ended."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path, weights_only=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass


def _trainer(single: Trainer, checkpoint: Path) -> Trainer:
    """A Trainer with the settings of a member's own."""
    device = single.strategy.root_device
    return Trainer(
        **trainer_settings(single),
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        callbacks=[_State(checkpoint)],
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=single.progress_bar_callback is not None,
    )


def _is_of(checkpoint: Path, population: Population) -> bool:
    """Whether there is a checkpoint of these very members."""
    if not checkpoint.is_file():
        return False
    state = read_checkpoint(checkpoint)
    return bool(state.get("population", {}).get("fingerprint") == population.fingerprint)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C arrive as KeyboardInterrupt, which Lightning turns into an exit or swallows, by its version."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)  # which Lightning has switched off
        raise KeyboardInterrupt
