"""KeepMasks: the masks of a LightningModule that knows nothing of them."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from spl.callbacks.run import callbacks_of
from spl.masked_weights import MaskedWeights
from spl.module import SparseClassifier


class KeepMasks(Callback):
    """Keeps the pruned weights of any LightningModule at exactly 0.0, and its masks in its checkpoints at `masks`.

    Gradients are masked before the step of whichever optimizer, in automatic and in manual optimization. A
    SparseClassifier does all this by itself, and is left to it. A checkpoint of the weights alone
    (`save_weights_only`), in which Lightning lets no callback write, has the zeros and not the masks.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimizers."""
        MaskedWeights.of(pl_module).follow(trainer.optimizers)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Mask the gradients."""
        if not isinstance(pl_module, SparseClassifier):
            MaskedWeights.of(pl_module).mask_gradients_()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the masks."""
        if not isinstance(pl_module, SparseClassifier):
            MaskedWeights.of(pl_module).save(checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the masks back."""
        if not isinstance(pl_module, SparseClassifier):
            MaskedWeights.of(pl_module).load(checkpoint)


@torch.no_grad()
def restart_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let averages of weights (WeightAveraging, StochasticWeightAveraging) begin at the weights as they are now.

    Their copies are made in `setup`, of the dense weights, which validation and checkpoints would see until the first
    average is taken.
    """
    for callback in callbacks_of(trainer, Callback):
        average = getattr(callback, "_average_model", None)
        if isinstance(average, nn.Module):
            for own, averaged in zip(pl_module.parameters(), average.parameters(), strict=True):
                averaged.copy_(own)
