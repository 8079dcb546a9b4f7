"""A callback that prints, when fit ends, what the pruned network costs."""

from typing import Any

from torch import Tensor

from spl.callbacks.base import SplCallback
from spl.criteria.objective import first_tensor
from spl.errors import InputError
from spl.export import cost_line
from spl.lightning_api import LightningModule, Trainer, rank_zero_info
from spl.masks.masked_weights import MaskedWeights


class CostLine(SplCallback):
    """A callback that prints after training: weights kept, parameters, multiply-accumulates (MACs), bytes.

    These are the numbers of `spl summary`, each kind in a line of its own. MACs are counted for one input: the module's
    `example_input_array`, or the first input of the first batch. They are left out if the network's forward takes
    something else. Nothing is printed if the weights are sharded over processes.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl import PruneAtInit
        >>> from spl.callbacks import CostLine
        >>> callbacks = [PruneAtInit(sparsity=0.9), CostLine()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    _trains = False
    _example: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the input of an earlier fit."""
        self._trains, self._example = True, None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep one input of the first batch."""
        if self._example is None:
            given = pl_module.example_input_array
            self._example = first_input(batch if given is None else given)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the costs on the first process."""
        trained, self._trains = self._trains, False
        weights, sharded = MaskedWeights.of(pl_module), trainer.strategy.restore_checkpoint_after_setup
        if trained and weights.masks is not None and trainer.is_global_zero and not sharded:
            example = None if self._example is None else self._example.to(pl_module.device)
            costs = cost_line(weights.network, weights.masks, example).replace("; ", ";\n  ")  # within 80 columns
            rank_zero_info(f"The pruned network: {costs}")


def first_input(batch: Any) -> Tensor | None:
    """Return a copy of the first input of a batch, [1, ...]; None if the batch contains no tensor.

    Example:
        >>> import torch
        >>> from spl.callbacks.cost_line import first_input
        >>> first_input((torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])))
        tensor([[1.]])
    """
    try:
        return first_tensor(batch)[:1].detach().clone()
    except InputError:
        return None
