"""Trains a population, and resumes one that was interrupted."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from spl.population.agreement import check
from spl.population.data import PopulationData
from spl.population.member import Member
from spl.population.population import Population


def train(members: Sequence[Member], checkpoint: Path) -> None:
    """Train all together for their own number of steps, and leave in each run's folder what its `spl fit` would.

    Each member ends with the weights of its own run, up to the rounding of the fused products. `best.ckpt` and
    `last.ckpt` hold weights and masks, not the state of the optimizer: to evaluate and to start from, not to resume.

    Args:
        members: of one architecture, optimizer, schedule, data set and length; see `spl.population.agreement`.
        checkpoint: where the state of the whole is kept, renewed as each epoch begins, until all is done. One that
            is there and is of these members is resumed, bit for bit on a CPU; another is overwritten.

    Raises:
        InputError: the members cannot be trained as one.
        KeyboardInterrupt: on Ctrl-C; the checkpoint stays.
    """
    check(members)
    population, data = Population(members), PopulationData(members)
    trainer = _trainer(members[0].trainer, checkpoint)
    _fit(trainer, population, data, checkpoint if _is_of(checkpoint, population) else None)
    if any(member.tested for member in members):
        trainer.test(population, datamodule=data, verbose=False)
    population.write_checkpoints()
    for logger in population.journal.loggers:
        logger.finalize("success")
    checkpoint.unlink(missing_ok=True)


class _KeepState(Checkpoint):
    """Writes the state of the population once in every epoch but the first, whole or not at all.

    After the first step, not at the end of the epoch before: there, Lightning resumes a fit that counts steps
    (`max_steps`) at the wrong epoch, and so in another order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and trainer.current_epoch > 0:
            part = self.path.with_name(self.path.name + ".part")
            trainer.save_checkpoint(part, weights_only=False)
            os.replace(part, self.path)


def _trainer(single: Trainer, checkpoint: Path) -> Trainer:
    """A Trainer with the settings of a member's own."""
    device = single.strategy.root_device
    settings: dict[str, Any] = {
        name: getattr(single, name)
        for name in (
            "max_steps",
            "max_epochs",
            "log_every_n_steps",
            "limit_train_batches",
            "limit_val_batches",
            "limit_test_batches",
            "val_check_interval",
            "check_val_every_n_epoch",
        )
    }
    return Trainer(
        **settings,
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        callbacks=[_KeepState(checkpoint)],
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=single.progress_bar_callback is not None,
    )


def _is_of(checkpoint: Path, population: Population) -> bool:
    """Whether there is a checkpoint of these very members."""
    if not checkpoint.is_file():
        return False
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return bool(state.get("population", {}).get("fingerprint") == population.fingerprint)


def _fit(trainer: Trainer, population: Population, data: PopulationData, ckpt_path: Path | None) -> None:
    """Fit; Ctrl-C arrives as KeyboardInterrupt, which Lightning turns into an exit or swallows, by its version."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(population, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit as stopped:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)  # which Lightning has switched off
        raise KeyboardInterrupt from stopped
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt
