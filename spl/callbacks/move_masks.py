"""MoveMasks: move the masks of a LightningModule while it trains."""

import math
from typing import Any

import torch
from torch import Tensor

from spl.callbacks.base import SplCallback
from spl.callbacks.cost_line import first_input
from spl.callbacks.keep_masks import KeepMasks, mask_averages
from spl.callbacks.reporting.moving_log import log_move
from spl.callbacks.scoring.ranks import Ranks
from spl.callbacks.trainer import add_callback
from spl.errors import InputError
from spl.functional.seeds import derived_seed
from spl.lightning_api import LightningModule, Trainer, rank_zero_warn
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.updates import MovingMasks, Update
from spl.updates.saved_state import check_state


class MoveMasks(SplCallback):
    """A callback that moves the masks of a LightningModule while it trains: SET, RigL, GMP, or an update of your own.

    The masks are those of `PruneAtInit`. They move right before a step of the optimizer; see `MovingMasks`. The Trainer
    estimates the steps of the whole fit; in manual optimization, it expects one step for each batch. A checkpoint has
    the masks of its step, and a fit that is resumed is bit for bit the one that was not interrupted.

    After each update it logs `masks/sparsity`, `masks/effective_sparsity` (weights on no path from input to output
    count as pruned), `masks/ever_active` (the share of weights that have been kept at any time), `masks/overlap` (the
    share of the kept weights that were kept by the first masks) and `masks/moved` (the number of weights that moved).
    A `JacobianSpectrum` among the callbacks measures the network then, as `jacobian/train/*`. TensorBoard has images
    of the masks of the 1st, 2nd, 4th, 8th, … update.

    Args:
        update: what moves the masks; null for masks that stay as they are.
        seed: decides random growth; null to derive it from the seed of the run.
        isometric: start grown weights near isometry, not at 0; see `isometric_starts`.

    Attributes:
        moving: the masks as they move; None before a fit begins.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl import MoveMasks, PruneAtInit
        >>> from spl.criteria import Random
        >>> from spl.pruning.scopes import ERK
        >>> from spl.updates import RigL
        >>> pruning = PruneAtInit(sparsity=0.9, criterion=Random(), scope=ERK())
        >>> callbacks = [pruning, MoveMasks(RigL(every=100, fraction=0.3, until=0.75))]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, update: Update | None = None, seed: int | None = None, isometric: bool = False) -> None:
        self.update = update
        self.seed = seed
        self.isometric = isometric
        self.moving: MovingMasks | None = None
        self._state: dict[str, Any] = {}
        self._has_moved = False
        self._example: Tensor | None = None

    @property
    def first(self) -> Masks | None:
        """The masks at the beginning of the training; None before it."""
        if self.moving is not None:
            return self.moving.first
        return Masks(self._state["first"]) if self._state else None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, the first masks, and the weights that were kept at any time."""
        return self._state if self.moving is None else self.moving.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state from the checkpoint, after reading in it what a resumed fit will need."""
        if state_dict:
            check_state(state_dict)
        self.moving, self._state = None, state_dict

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that shard weights, and let the masks be saved.

        Raises:
            InputError: the strategy shards weights.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or self.update is None:
            return
        if trainer.strategy.restore_checkpoint_after_setup:
            raise InputError(
                f"MoveMasks does not support {type(trainer.strategy).__name__}, which shards the weights: use "
                "trainer.strategy auto, ddp or single_device, or leave MoveMasks out."
            )
        add_callback(trainer, KeepMasks(), behind=self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to move the masks, or go on from the checkpoint.

        Raises:
            InputError: the network has no masks, or nobody knows how many steps the fit will take.
        """
        if self.update is None:
            return
        held = MaskedWeights.of(pl_module)
        if held.masks is None:
            raise InputError("MoveMasks found no masks to move: add the callback PruneAtInit, or call set_masks.")
        state = self.state_dict() if trainer.global_step else {}  # of a checkpoint, or of a fit that goes on
        ranks = Ranks(trainer)
        seed = derived_seed(torch.initial_seed(), "MoveMasks") if self.seed is None else self.seed
        self._has_moved, self._example = False, None
        self.moving = MovingMasks(
            held, self.update, _steps(trainer), ranks.from_first(seed), ranks, self._on_move, self.isometric
        )
        if state:
            self.moving.load_state_dict(state)
        steps, last = self.moving.steps, self.update.last_step(self.moving.steps)
        if last < self.update.every:
            rank_zero_warn(
                f"The masks will not move: the fit takes {steps} steps, and {type(self.update).__name__} moves them "
                f"every {self.update.every} steps up to step {last}. Choose a smaller `every`."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep one input of the first batch, whose shape decides which weights are on paths."""
        if self.moving is not None and self._example is None:
            given = pl_module.example_input_array
            self._example = first_input(batch if given is None else given)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log an update, and mask averages of the weights as well."""
        if self._has_moved and self.moving is not None:
            self._has_moved = False
            mask_averages(trainer, pl_module)
            log_move(trainer, pl_module, self.moving, self._example)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the masks rest."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the masks rest."""
        self._stop()

    def _stop(self) -> None:
        if self.moving is not None:
            self.moving.stop()

    def _on_move(self) -> None:
        self._has_moved = True


def _steps(trainer: Trainer) -> int:
    """Return the number of all steps of a fit."""
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 1:
        raise InputError(
            "MoveMasks must know how many steps the fit takes, because masks rest after a share of them: give the "
            "Trainer max_steps, or max_epochs and training data that have a length."
        )
    return int(steps)
