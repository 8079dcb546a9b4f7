"""KeepMasks: the masks of a LightningModule that knows nothing of them."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from spl.callbacks.trainer import callbacks_of
from spl.classifier import SparseClassifier
from spl.masks.masked_weights import MaskedWeights


class KeepMasks(Callback):
    """Keeps the pruned weights of any LightningModule at exactly 0.0, and its masks in its checkpoints at `masks`.

    Gradients are masked before the step of whichever optimizer, in automatic and in manual optimization; pruned weights
    are set back to 0.0 when fit starts, after each batch, and before any evaluation; see `MaskedWeights`. A checkpoint
    of the weights alone (`save_weights_only`), in which Lightning lets no callback write, has the zeros and not the
    masks.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set weights that were changed since they were pruned back to 0.0, before the sanity check sees them."""
        weights = MaskedWeights.of(pl_module)
        weights.kept_by_callback = True
        weights.restart()
        if weights.keep("when fit started"):
            restart_averages(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Undo what was written since the last batch."""
        MaskedWeights.of(pl_module).check()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the gradients in manual optimization, where an optimizer may use them without a step (SAM)."""
        if not pl_module.automatic_optimization:
            MaskedWeights.of(pl_module).mask_gradients_()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Mask the gradients before they are clipped."""
        MaskedWeights.of(pl_module).mask_gradients_()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo what no optimizer's step announced."""
        MaskedWeights.of(pl_module).keep()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no pruned weight act in validation."""
        MaskedWeights.of(pl_module).keep("before validation", look=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no pruned weight act in the test."""
        MaskedWeights.of(pl_module).keep("before the test", look=True)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no pruned weight act in predictions."""
        MaskedWeights.of(pl_module).keep("before predictions", look=True)

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
