"""A callback that ends a fit when its loss becomes NaN or infinite."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spl.callbacks.base import SplCallback
from spl.callbacks.lightning_private import logged_step
from spl.errors import DivergedError
from spl.lightning_api import LightningModule, Trainer
from spl.masks.sharding import shard

_MOST = 50  # steps between two checks, because each check waits for the device


class FiniteLoss(SplCallback):
    """A callback that ends a fit with an error when the loss of a training step is NaN or infinite.

    It works with any LightningModule, and checks what `training_step` returns: one number, or a dictionary with one
    number at `loss`. Steps that return anything else, or nothing, are not checked.

    Losses stay on their device. All processes check theirs together: every `log_every_n_steps` steps (50 at most),
    before validation, at the end of an epoch, and before a checkpoint is written from which training can be resumed. So
    a checkpoint of a diverged network never replaces one of a network that had not diverged.

    Raises:
        DivergedError: in `fit`, on all processes after the same step.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl.callbacks import FiniteLoss
        >>> class Diverging(BoringModel):
        ...     def training_step(self, batch, batch_idx):
        ...         return self(batch).sum() * float("inf")
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        >>> Trainer(callbacks=[FiniteLoss()], enable_checkpointing=False, max_epochs=1, **quiet).fit(Diverging())
        Traceback (most recent call last):
            ...
        spl.errors.DivergedError: The training loss is NaN or infinite at step 0 (epoch 0), so fit ends here: ...
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor | None]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the losses of an earlier fit that was interrupted."""
        super().setup(trainer, pl_module, stage)
        self._losses = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and check the losses kept so far if there are enough."""
        self._losses.append((logged_step(trainer), _loss(outputs)))
        if len(self._losses) >= min(trainer.log_every_n_steps or _MOST, _MOST):  # type: ignore[attr-defined]
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses before a ModelCheckpoint compares accuracies."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses before callbacks that monitor the epoch act."""
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the losses before the checkpoint is written."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        """Raise an error on all processes if one of them has kept a loss that is not finite."""
        losses, self._losses = self._losses, []
        if not losses:
            return
        last = _steps_from_first_fault([loss for _, loss in losses])
        if trainer.world_size > 1:
            mine = torch.tensor(last, device=trainer.strategy.root_device)
            last = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if last:
            raise DivergedError(
                f"The training loss is NaN or infinite at step {losses[-last][0]} (epoch {trainer.current_epoch}), so "
                "fit ends here: lower the learning rate (--model.optimizer.lr), correct to a smaller gain "
                "(--pruning.isometry.gain 1) or not at all (--pruning.isometry null), or compute in higher precision "
                "(--trainer.precision 32)."
            )


def _loss(outputs: Any) -> Tensor | None:
    """Return the loss among the outputs of a training step, if there is one."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach().clone() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _steps_from_first_fault(losses: list[Tensor | None]) -> int:
    """Return how many steps there are from the first loss that is not finite to the last step; 0 if all are finite."""
    numbers = {i: shard(loss).isfinite().all() for i, loss in enumerate(losses) if loss is not None}
    if not numbers:
        return 0
    finite = torch.stack([number.to(next(reversed(numbers.values())).device) for number in numbers.values()]).tolist()
    return next((len(losses) - i for i, fine in zip(numbers, finite, strict=True) if not fine), 0)
