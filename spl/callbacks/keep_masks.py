"""KeepMasks: keep the masks of any LightningModule."""

from typing import Any

import torch
from torch.optim import Optimizer

from spl.callbacks.base import SplCallback
from spl.callbacks.lightning_private import averaged_network
from spl.callbacks.scoring.sharded_weights import shards
from spl.callbacks.trainer import callbacks_of
from spl.classifier import SparseClassifier
from spl.lightning_api import Callback, LightningModule, Trainer
from spl.masks.masked_weights import MaskedWeights
from spl.masks.sharding import note_pieces


class KeepMasks(SplCallback):
    """Keep the pruned weights of any LightningModule at exactly 0.0, and its masks in its checkpoints at `masks`.

    Gradients are masked before the step of any optimizer, in automatic and in manual optimization. Pruned weights are
    set back to 0.0 when fit starts, after each batch, and before any evaluation; see `MaskedWeights`. A checkpoint of
    the weights alone (`save_weights_only`) has the zeros but not the masks, because Lightning lets no callback write
    into it.

    `PruneAtInit` adds this callback to its Trainer.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[KeepMasks()], logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set pruned weights that were changed back to 0.0, before the sanity check sees them."""
        MaskedWeights.of(pl_module).kept_by_callback = True
        if shards(trainer):
            note_pieces(trainer.strategy.model)
        else:
            self._start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so now if the weights are sharded: the checkpoint has been restored only after on_fit_start."""
        if shards(trainer):
            self._start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Undo what was written to pruned weights since the last batch."""
        MaskedWeights.of(pl_module).check()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the gradients in manual optimization: an optimizer may use them without a step (SAM)."""
        if not pl_module.automatic_optimization:
            MaskedWeights.of(pl_module).mask_gradients_()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Move the masks if it is time, and mask the gradients before they are clipped."""
        MaskedWeights.of(pl_module).mask_gradients_(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo what was written to pruned weights other than by an optimizer's step."""
        MaskedWeights.of(pl_module).keep()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set pruned weights to 0.0 before validation."""
        MaskedWeights.of(pl_module).keep("before validation", look=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set pruned weights to 0.0 before the test."""
        MaskedWeights.of(pl_module).keep("before the test", look=True)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set pruned weights to 0.0 before predictions."""
        MaskedWeights.of(pl_module).keep("before predictions", look=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the masks to the checkpoint."""
        if not isinstance(pl_module, SparseClassifier):
            MaskedWeights.of(pl_module).save(checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the masks from the checkpoint."""
        if not isinstance(pl_module, SparseClassifier):
            MaskedWeights.of(pl_module).load(checkpoint)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = MaskedWeights.of(pl_module)
        weights.restart()
        if weights.keep("when fit started"):
            restart_averages(trainer, pl_module)


@torch.no_grad()
def restart_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let averages of weights (WeightAveraging, StochasticWeightAveraging) begin at the weights as they are now.

    Their copies are made of the dense weights, in `setup`. Validation and checkpoints would see these until the first
    average is taken.
    """
    for callback in callbacks_of(trainer, Callback):
        if (average := averaged_network(callback)) is not None:
            for own, averaged in zip(pl_module.parameters(), average.parameters(), strict=True):
                averaged.copy_(own)


@torch.no_grad()
def mask_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Set the weights that the masks prune to 0.0 in averages of weights too, because masks have moved.

    An average of weights that are always pruned is 0 by itself.
    """
    held = MaskedWeights.of(pl_module)
    names = {id(parameter): name for name, parameter in held.parameters.items()}
    for callback in callbacks_of(trainer, Callback):
        if held.masks is not None and (average := averaged_network(callback)) is not None:
            for own, averaged in zip(pl_module.parameters(), average.parameters(), strict=True):
                if (mask := held.masks.get(names.get(id(own), ""))) is not None:
                    averaged.masked_fill_(~mask.to(averaged.device), 0.0)
