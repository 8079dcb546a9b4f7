"""PruneAtInit: prune a LightningModule, and correct what is left, before the first training step."""

from functools import partial
from typing import Any

import torch

from spl.callbacks.base import SplCallback
from spl.callbacks.cost_line import CostLine
from spl.callbacks.keep_masks import KeepMasks, restart_averages
from spl.callbacks.lightning_private import trains_in_copies
from spl.callbacks.pruned_already import masks_of_zeros
from spl.callbacks.refusals import (
    COPIES,
    check_callbacks,
    check_copies,
    check_moving,
    check_redrawn,
    check_restored,
    without_masks,
)
from spl.callbacks.reporting.pruning_log import log_pruning
from spl.callbacks.reporting.record import (
    choices_record,
    coverage_record,
    data_record,
    restored_state,
    saved_state,
)
from spl.callbacks.scoring.batches import scoring_batches
from spl.callbacks.scoring.ranks import Ranks
from spl.callbacks.scoring.sharded_weights import before_sharding, shards
from spl.callbacks.scoring.step_loss import StepLoss, check_objective, objective
from spl.callbacks.stages import announce
from spl.callbacks.trainer import add_callback, callbacks_of, datamodule_of
from spl.classifier import SparseClassifier
from spl.criteria import Criterion, Scores
from spl.errors import InputError
from spl.isometry import Change, Correction, DefaultIsometry, orthogonality_score
from spl.isometry.pruned_layer import oriented
from spl.lightning_api import LightningDataModule, LightningModule, Trainer, TrainerFn, rank_zero_info
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.pruning import PruningChoices
from spl.pruning.weights import check_weights
from spl.sparsify import Stage, sparsify


class PruneAtInit(SplCallback):
    """Prune a LightningModule at initialization and bring what is left back to approximate isometry.

    It prunes once, when fit starts: the weights are on their device, equal on all processes and not trained yet. A
    resumed fit takes its masks from the checkpoint and scores nothing. Weights that come to fit pruned already, without
    masks, keep their zeros if these are as many as are asked for, and are refused otherwise; see `masks_of_zeros`.

    Criteria and corrections that draw random numbers and have no seed use the seed of the run (`seed_everything`), of
    several processes that of the first.

    A `SparseClassifier` is scored by its cross-entropy. Any other module is scored by the loss that its
    `training_step` returns, without a trace, or by `loss`, in the mode in which it trains but without dropout.

    The callback adds two others to the Trainer: `KeepMasks` keeps the pruned weights at 0, and `CostLine` says in one
    line at the end of fit what the pruned network costs.

    Args:
        sparsity: the share of weights to remove, in [0, 1). At 0 the fit is bit for bit the dense one.
        loss: a function of module and batch by which to score a module that is no SparseClassifier, a mean over the
            batch; null for its training step.
        batches: the number of batches to score on; null for the whole training split.
        seed: decides the order in which the scoring batches are drawn, the same in every run.
        scoring_data: the data to score on, if it is not the data to train on (transfer of sparsity).
        criterion: what scores the weights (their importance); null for connection sensitivity.
        isometry: the correction after pruning; null for none. The default is ApproximateIsometry, but none where a
            criterion is named and no correction: a criterion that is named alone is the method as it was published.
        choices: what else decides the masks: `scope`, `pattern`, `schedule` and more, by name; see
            `spl.pruning.PruningChoices`.

    Attributes:
        choices: what was chosen.
        record: what decided the masks, as it is written to `pruning.yaml`; empty before the network is pruned.
        changes: what the correction did, by the name of each layer's weight.

    Raises:
        InputError: a choice is not possible.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.pruning.scopes import ERK
        >>> pruning = PruneAtInit(sparsity=0.95, scope=ERK())
        >>> trainer = Trainer(callbacks=[pruning], logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> pruning.choices.sparsity, pruning.masks  # trainer.fit(model) prunes the model first
        (0.95, None)
    """

    def __init__(
        self,
        sparsity: float = PruningChoices.sparsity,
        *,
        loss: StepLoss | None = None,
        batches: int | None = None,
        seed: int = 0,
        scoring_data: LightningDataModule | None = None,
        criterion: Criterion | None = None,
        isometry: Correction | None = DefaultIsometry(),
        **choices: Any,
    ) -> None:
        self.choices = PruningChoices(sparsity=sparsity, criterion=criterion or PruningChoices.criterion, **choices)
        if batches is not None and batches < 1:
            raise InputError(f"batches must be at least 1, or null for the whole training split, got {batches}.")
        self.loss = loss
        self.batches = batches
        self.seed = seed
        self.scoring_data = scoring_data
        self.isometry = isometry.beside(criterion) if isinstance(isometry, DefaultIsometry) else isometry
        self.record: dict[str, Any] = {}
        self.changes: dict[str, Change] = {}
        self._orthogonality: dict[str, float] = {}
        self._weights: MaskedWeights | None = None
        self._restored_step: int | None = None
        self._unreported: Scores | None = None

    @property
    def masks(self) -> Masks | None:
        """Which weights of the module are kept, by name; None until it is pruned."""
        return self._weights.masks if self._weights else None

    def state_dict(self) -> dict[str, Any]:
        """Return the record, and the isometry residuals for the table of a resumed run."""
        return saved_state(self.record, self.changes)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the record and the residuals from the checkpoint."""
        self.record, self.changes = restored_state(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the callbacks that keep the masks and tell the costs; refuse what cannot be pruned, before all else."""
        super().setup(trainer, pl_module, stage)
        self._weights = MaskedWeights.of(pl_module)
        add_callback(trainer, CostLine(), behind=self)
        add_callback(trainer, KeepMasks(), behind=self)
        if stage == "fit":
            self._check(trainer, pl_module)
            if shards(trainer) and self.masks is None:
                before_sharding(trainer, pl_module, partial(self._prune_whole, trainer, pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note at which step the checkpoint was made: LearningRateFinder restores one of a network not yet trained."""
        self._restored_step = int(checkpoint["global_step"])
        if trainer.state.fn == TrainerFn.FITTING and shards(trainer) and "masks" not in checkpoint:
            raise without_masks(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune and correct, or keep the masks of the checkpoint."""
        if shards(trainer):  # pruned before it was sharded; the checkpoint is restored later
            return
        if self.masks is not None:
            check_restored(trainer, self.choices, self.record, self.masks)
        elif trainer.ckpt_path and self._restored_step != 0:
            raise without_masks(trainer)
        elif not self._keep_zeros(pl_module):
            self._log(trainer, self._prune(trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a network that was pruned before it was sharded, or check the masks of the checkpoint."""
        if shards(trainer):
            if self._unreported is not None and not trainer.ckpt_path:
                self._log(trainer, self._unreported)
            elif self.masks is not None:
                check_restored(trainer, self.choices, self.record, self.masks)
            self._unreported = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say of a strategy that was refused in another process what is wrong, without that process's traceback."""
        if trains_in_copies(trainer) and not isinstance(exception, InputError) and COPIES in str(exception):
            raise InputError(COPIES) from None

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.masks is None:
            check_copies(trainer)
        check_callbacks(trainer)
        if len(callbacks_of(trainer, PruneAtInit)) > 1:
            raise InputError("The Trainer has more than one PruneAtInit: a network is pruned once, so keep one.")
        if isinstance(pl_module, SparseClassifier):  # others may make their layers later
            self.choices.check(*self.choices.sizes(self.choices.parameters(pl_module.network)))
        check_objective(pl_module, self.loss, self.choices.targets)
        check_redrawn(self.isometry, self.choices.pattern)
        check_moving(trainer, self.choices.pattern)

    def _keep_zeros(self, pl_module: LightningModule) -> bool:
        """Hold the zeros of a network that was pruned before as its masks, and return whether it was."""
        weights = MaskedWeights.of(pl_module)
        parameters = self.choices.parameters(weights.network)
        check_weights(weights.network, parameters, self.choices.criterion, self.isometry)
        masks = None if self.choices.criterion.takes_pruned else masks_of_zeros(parameters, self.choices)
        if masks is None:
            return False
        weights.hold(masks)
        rank_zero_info(f"The weights are pruned already: their zeros are kept, not scored nor corrected: {masks}")
        return True

    def _prune_whole(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._keep_zeros(pl_module):
            self._unreported = self._prune(trainer, pl_module)
        MaskedWeights.of(pl_module).pause()

    def _prune(self, trainer: Trainer, pl_module: LightningModule) -> Scores:
        run_seed = trainer.strategy.broadcast(torch.initial_seed())  # before a reader of batches seeds the stream anew
        ranks, choices, needs_data = Ranks(trainer), self.choices, self.choices.criterion.needs_data
        data = self.scoring_data or datamodule_of(trainer)
        batches = scoring_batches(trainer, pl_module, data, self.batches, self.seed, needs_data)
        loss = objective(trainer, pl_module, self.loss, choices.loss)
        masks, self.changes, scores, coverage = sparsify(
            MaskedWeights.of(pl_module).network,
            batches=batches,
            isometry=self.isometry,
            loss=loss,
            seed=run_seed,
            processes=ranks,
            on_stage=partial(self._on_stage, trainer, pl_module),
            **vars(choices),
        )
        collapse = choices.collapse_sparsities(scores, choices.sizes(masks)[0])
        self.record = choices_record(choices, self.isometry, masks, self.changes) | coverage_record(coverage)
        if batches is not None and needs_data:
            self.record |= data_record(choices, batches, loss, ranks)
        self.record |= {"run_seed": run_seed, "collapse_sparsity": collapse}
        restart_averages(trainer, pl_module)
        return scores

    def _on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage, masks: Masks | None) -> None:
        """Hold the masks of a stage, measure its orthogonality, and tell the listeners."""
        weights = MaskedWeights.of(pl_module)
        if masks is not None:
            weights.hold(masks)
            parameters = weights.parameters
            shown = {name: parameters[name] for name, mask in masks.items() if mask.ndim > 1}
            if matrices := [oriented(weights.network, name, w) for name, w in shown.items() if not w.is_complex()]:
                self._orthogonality[f"isometry/score/{stage}"] = orthogonality_score(matrices)
        announce(trainer, pl_module, stage)

    def _log(self, trainer: Trainer, scores: Scores) -> None:
        assert self.masks is not None
        log_pruning(trainer, self.masks, scores, self.record, self.changes, self._orthogonality)
