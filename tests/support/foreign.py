"""LightningModules that know nothing about masks, and the properties that they must have under PruneAtInit."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import PLAIN
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from spl import PruneAtInit
from spl.pruning import keep_count, prunable_parameters


class Plain(L.LightningModule):
    """A classifier as users usually write it."""

    def __init__(self, network: nn.Module, lr: float = 0.05) -> None:
        super().__init__()
        self.network = network
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)


class ZerosStay(L.Callback):
    """A callback that asserts after every batch that each pruned weight is exactly 0.0, and records the losses."""

    def __init__(self, pruning: PruneAtInit) -> None:
        self.pruning = pruning
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        assert self.pruning.masks is not None
        assert self.pruning.masks.revived(dict(pl_module.named_parameters())) == {}
        if outputs:
            self.losses.append(float(outputs["loss"]))


class Trained:
    """A module that has been fitted with PruneAtInit.

    Args:
        make: makes the module, after seeding.
        data: the batches in training order.
        epochs: the epoch at which training ends.
        resume: the checkpoint to resume from.
        callbacks: additional callbacks.
        trainer: settings of the Trainer.
        pruning: settings of PruneAtInit.
    """

    def __init__(
        self,
        make: Callable[[], L.LightningModule],
        data: Iterable[Any],
        epochs: int = 1,
        resume: Path | None = None,
        callbacks: Iterable[L.Callback] = (),
        trainer: dict[str, Any] | None = None,
        **pruning: Any,
    ) -> None:
        L.seed_everything(0, verbose=False)
        self.module = make()
        self.pruning = PruneAtInit(**({"sparsity": 0.9, "isometry": None} | pruning))
        self.check = ZerosStay(self.pruning)
        settings = PLAIN | {"max_epochs": epochs, "limit_train_batches": 1.0} | (trainer or {})
        self.trainer = L.Trainer(**settings, callbacks=[self.pruning, *callbacks, self.check])
        self.trainer.fit(self.module, data, ckpt_path=resume)
        assert self.pruning.masks is not None
        self.masks = self.pruning.masks

    def saved(self, path: Path) -> Path:
        self.trainer.save_checkpoint(path)
        return path


def batches(dataset: Dataset[Any], size: int) -> DataLoader[Any]:
    """Return batches in a fixed order: a shuffled order is not resumed where it stopped, with or without masks."""
    return DataLoader(dataset, batch_size=size)


def images(n: int, side: int, classes: int = 4) -> TensorDataset:
    """Return random images and labels to memorize."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(n, 3, side, side, generator=generator), torch.arange(n) % classes)


def invariants(
    make: Callable[[], L.LightningModule], data: Iterable[Any], folder: Path, epochs: int = 4, **pruning: Any
) -> Trained:
    """Train, stop half way and resume; check sparsity, zeros, a plain checkpoint, uninterrupted weights and learning.

    The losses are recorded by `ZerosStay`. In the last epoch they must be at most 0.8 times those of the first.
    """
    whole = Trained(make, data, epochs, **pruning)
    size = sum(p.numel() for p in prunable_parameters(whole.module).values())
    assert (whole.masks.size, whole.masks.kept) == (size, keep_count(size, 0.9))
    half = Trained(make, data, epochs // 2, **pruning).saved(folder / "half.ckpt")
    checkpoint = torch.load(half, weights_only=True)
    assert checkpoint["masks"].keys() == whole.masks.keys()
    for name, mask in checkpoint["masks"].items():
        assert bool((checkpoint["state_dict"][name][~mask] == 0).all())
    resumed = Trained(make, data, epochs, resume=half, **(pruning | {"criterion": Forbidden()}))
    assert resumed.masks == whole.masks
    for (name, a), b in zip(whole.module.state_dict().items(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    steps = len(whole.check.losses) // epochs
    assert sum(whole.check.losses[-steps:]) < 0.8 * sum(whole.check.losses[:steps])
    return whole


class Forbidden:
    """A criterion that must not be called."""

    needs_data = False
