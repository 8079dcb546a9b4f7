"""PopulationData: the batches of all members, each in the order of its own run."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from spl.data import ImageDataModule
from spl.data.tensors import Batch, TrainLoader
from spl.reproduction.stacked.prepared_run import Member


class PopulationData(LightningDataModule):
    """Training batches [P, N, ...], one for each member; evaluation batches [1, N, ...], the same for all.

    Members of one seed train in one order, so its batches are drawn and prepared once, and only then handed out.

    Args:
        members: of one data set and batch size.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        sources: dict[int, ImageDataModule] = {member.data.seed: member.data for member in members}
        self.sources = list(sources.values())
        seeds = list(sources)
        self.source_of = torch.tensor([seeds.index(member.data.seed) for member in members])

    def setup(self, stage: str) -> None:
        """Bind the members' data to this Trainer, which they ask for step and device."""
        for source in self.sources:
            source.trainer = self.trainer
        assert self.trainer is not None
        self.source_of = self.source_of.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> list[TrainLoader]:
        """One loader for each order; Lightning draws from all at once and keeps their positions."""
        return [source.train_dataloader() for source in self.sources]

    def val_dataloader(self) -> DataLoader[Batch]:
        """The images held out of the training ones."""
        return self.sources[0].val_dataloader()

    def test_dataloader(self) -> DataLoader[Batch]:
        """The data set's own test images."""
        return self.sources[0].test_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Each order's batch to `device`."""
        batches = batch if isinstance(batch, list) else [batch]
        return [self.sources[0].transfer_batch_to_device(pair, device, dataloader_idx) for pair in batches]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Prepare each order's batch as its own run does, and hand them out to the members."""
        pairs = [
            source.on_after_batch_transfer(pair, dataloader_idx)
            for source, pair in zip(self.sources, batch, strict=False)
        ]
        inputs, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        if len(pairs) == 1:
            return inputs, labels
        return inputs.index_select(0, self.source_of), labels.index_select(0, self.source_of)
