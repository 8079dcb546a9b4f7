"""CostLine: what the pruned network costs, in one line when fit ends."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from spl.criteria.objective import first_tensor
from spl.errors import InputError
from spl.export import cost_line
from spl.masks.masked_weights import MaskedWeights


class CostLine(Callback):
    """Tells after training what `spl summary` tells: weights kept, parameters, multiply-accumulates (MACs), bytes.

    MACs are those of the network for one input: the module's `example_input_array`, or what the first batch has.
    They are left out where its forward takes something else, and all is where the weights are sharded over processes.
    """

    _trains = False
    _example: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier fit."""
        self._trains, self._example = True, None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep one input, of the first batch."""
        if self._example is None:
            given = pl_module.example_input_array
            self._example = _first_input(batch if given is None else given)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell it on the first process."""
        trained, self._trains = self._trains, False
        weights, sharded = MaskedWeights.of(pl_module), trainer.strategy.restore_checkpoint_after_setup
        if trained and weights.masks is not None and trainer.is_global_zero and not sharded:
            example = None if self._example is None else self._example.to(pl_module.device)
            rank_zero_info(f"The pruned network: {cost_line(weights.network, weights.masks, example)}")


def _first_input(batch: Any) -> Tensor | None:
    try:
        return first_tensor(batch)[:1].detach().clone()
    except InputError:  # it has no tensor
        return None
