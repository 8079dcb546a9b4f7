"""Batches to score and measure on: prepared as for evaluation, in a fixed order, the same on every process."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from spl.criteria import Batch
from spl.errors import InputError


class EvaluationBatches:
    """The training examples of a DataModule, on the Trainer's device, not augmented, not cut over processes.

    A DataModule may offer `scoring_dataloader(seed)`; of others `train_dataloader()` is read with the random
    stream seeded, as in a validation pass, so that transforms that ask `trainer.training` are off. The training
    stream of random numbers is left alone.

    Args:
        trainer: gives the device.
        datamodule: what to read.
        limit: number of batches; None for all.
        seed: of the order.

    Attributes:
        batches: how many were read in the last pass.
        examples: how many examples they held.
    """

    def __init__(self, trainer: Trainer, datamodule: LightningDataModule, limit: int | None, seed: int) -> None:
        self.trainer = trainer
        self.datamodule = datamodule
        self.limit = limit
        self.seed = seed
        self.batches = 0
        self.examples = 0

    def __iter__(self) -> Iterator[Batch]:
        self.batches = self.examples = 0
        with isolate_rng(), _as_in_validation(self.trainer):
            torch.manual_seed(self.seed)
            for raw in islice(self._loader(), self.limit):
                inputs, labels = self._prepared(raw)
                self.batches += 1
                self.examples += len(inputs)
                yield inputs, labels

    def __len__(self) -> int:
        total = len(self._loader())  # type: ignore[arg-type]
        return total if self.limit is None else min(total, self.limit)

    def first(self, examples: int | None) -> Batch:
        """Inputs and labels of the first `examples`, of all without a number."""
        batches: list[Batch] = []
        for batch in self:
            batches.append(batch)
            if examples is not None and self.examples >= examples:
                break
        inputs, labels = (torch.cat(parts)[:examples] for parts in zip(*batches, strict=True))
        return inputs, labels

    def _loader(self) -> Iterator[object]:
        scoring = getattr(self.datamodule, "scoring_dataloader", None)
        loader: Iterator[object] = scoring(self.seed) if scoring else self.datamodule.train_dataloader()
        return loader

    def _prepared(self, raw: object) -> Batch:
        batch = self.datamodule.on_before_batch_transfer(raw, 0)
        batch = self.datamodule.transfer_batch_to_device(batch, self.trainer.strategy.root_device, 0)
        batch = self.datamodule.on_after_batch_transfer(batch, 0)
        batch = self.trainer.precision_plugin.convert_input(batch)
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            raise InputError(
                f"Scoring needs batches of (inputs, labels), got {type(batch).__name__} from "
                f"{type(self.datamodule).__name__}."
            )
        inputs, labels = batch
        return inputs, labels


@contextmanager
def _as_in_validation(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage
