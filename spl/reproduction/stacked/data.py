"""The data of stacked runs: the batches of all runs, each in the order of its own run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spl.data import ImageDataModule
from spl.data.tensors import Batch
from spl.lightning_api import LightningDataModule
from spl.reproduction.stacked.prepared_run import PreparedRun


class StackedData(LightningDataModule):
    """Training batches [P, N, ...], one for each run, and evaluation batches [1, N, ...], the same for all.

    Runs of one seed train in one order. Their batches are drawn and prepared once, and then handed out.

    Args:
        runs: prepared runs of one data set and batch size.
    """

    def __init__(self, runs: Sequence[PreparedRun]) -> None:
        super().__init__()
        sources: dict[int, ImageDataModule] = {run.data.seed: run.data for run in runs}
        self.sources = list(sources.values())
        seeds = list(sources)
        self.source_of = torch.tensor([seeds.index(run.data.seed) for run in runs])

    def setup(self, stage: str) -> None:
        """Attach the data of the runs to this Trainer, which knows the step and the device."""
        for source in self.sources:
            source.trainer = self.trainer
        assert self.trainer is not None
        self.source_of = self.source_of.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader for each order; Lightning draws from all at once and keeps their positions."""
        return [source.train_dataloader() for source in self.sources]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of the images that are held out of the training images."""
        return self.sources[0].val_dataloader()

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of the data set's test images."""
        return self.sources[0].test_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the batch of each order to `device`."""
        batches = batch if isinstance(batch, list) else [batch]
        return [self.sources[0].transfer_batch_to_device(pair, device, dataloader_idx) for pair in batches]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Prepare the batch of each order as its own run does, and hand the batches out to the runs.

        Images that are not augmented are prepared together, because on an accelerator each operator counts.
        """
        first = self.sources[0]
        if type(first).augment is ImageDataModule.augment:
            together = tuple(torch.stack(parts) for parts in zip(*batch, strict=True))
            inputs, labels = first.on_after_batch_transfer(together, dataloader_idx)
        else:
            pairs = [
                source.on_after_batch_transfer(pair, dataloader_idx)
                for source, pair in zip(self.sources, batch, strict=False)
            ]
            inputs, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        if len(batch) == 1:
            return inputs, labels
        return inputs.index_select(0, self.source_of), labels.index_select(0, self.source_of)
