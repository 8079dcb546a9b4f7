"""PruneAtInit: prunes, and corrects, before the first training step."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from spl.callbacks.cost_line import CostLine
from spl.callbacks.keep_masks import KeepMasks, restart_averages
from spl.callbacks.reporting.pruning_log import log_pruning
from spl.callbacks.reporting.record import described
from spl.callbacks.scoring.batches import EvaluationBatches, LabelledBatches
from spl.callbacks.scoring.ranks import Ranks
from spl.callbacks.scoring.sharded_weights import before_sharding, shards
from spl.callbacks.scoring.step_loss import StepLoss, check_objective, objective
from spl.callbacks.stages import Stage, announce
from spl.callbacks.trainer import callbacks_of, datamodule_of
from spl.classifier import SparseClassifier
from spl.criteria import ConnectionSensitivity, Criterion, LossOfLogits, Objective, Scores, Targets
from spl.criteria.schedules import Schedule
from spl.errors import InputError
from spl.functional.undisturbed import BatchNormMode
from spl.isometry import ApproximateIsometry, Change, Correction, Residuals, orthogonality_score
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.masks.sharding import note_pieces
from spl.pruning import Rule, check_sparsity, find_masks, keep_count, prunable_parameters
from spl.pruning.patterns import Pattern, Unstructured
from spl.pruning.scopes import Global, Scope


class PruneAtInit(KeepMasks):
    """Prune a LightningModule at initialization and bring what is left back to approximate isometry.

    Runs once, when fit starts: the weights are on their device, equal on all processes and not yet trained. A
    resumed fit takes its masks from the checkpoint and scores nothing.

    Criteria and corrections that draw, and have no seed, draw by the seed of the run (`seed_everything`): of several
    processes that of the first.

    A `SparseClassifier` is scored by cross-entropy, any other module by the loss that its `training_step` returns, in
    evaluation mode and without a trace, or by the one that is given.

    When fit ends, one line tells what the pruned network costs.

    Args:
        sparsity: share of weights to remove, in [0, 1). At 0 the run is bit for bit the dense one.
        criterion: what scores the weights.
        scope: how many weights each layer keeps: those of the largest scores over all layers (Global), one sparsity
            for all (Uniform), or sparsities by shape (ERK), by depth (SmartRatio) or by name (GivenDensities).
        pattern: what is kept or pruned together: single weights (Unstructured), n of every m along the inputs (NM) or
            both axes (TransposableNM), blocks (Blocks) or output channels (Channels).
        schedule: the rounds, each of which scores what the one before has left; null for the criterion's own.
        minimum: number of weights that every layer keeps in any case, against layer collapse.
        loss: a function of module and batch to score any other module by, a mean over the batch; null for its own.
        targets: what a classifier's scoring loss compares the prediction with: labels, or without labels the uniform
            distribution or the network's own prediction, as logits or as softmax.
        batch_norm: BatchNorm while scoring: running statistics, fresh at initialization (eval), or those of each
            batch (batch).
        batches: number of batches to score on; the whole training split without one.
        seed: of the order in which the scoring batches are drawn, the same in every run.
        scoring_data: score on another data set than the one to train on (transfer of sparsity).
        include_bias: prune biases too, as the paper counts them.
        include_embedding: prune embeddings too, of which a batch scores only the rows of its own tokens.
        exclude: shell patterns of parameter names that stay dense, such as fc7.* or *.bias.
        isometry: the correction after pruning; null for none.
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        criterion: Criterion = ConnectionSensitivity(),  # noqa: B008 (without state)
        scope: Scope = Global(),  # noqa: B008 (without state)
        pattern: Pattern = Unstructured(),  # noqa: B008 (without state)
        schedule: Schedule | None = None,
        minimum: int = 0,
        loss: StepLoss | None = None,
        targets: Targets = "labels",
        batch_norm: BatchNormMode = "eval",
        batches: int | None = None,
        seed: int = 0,
        scoring_data: LightningDataModule | None = None,
        include_bias: bool = False,
        include_embedding: bool = False,
        exclude: list[str] | None = None,
        isometry: Correction | None = ApproximateIsometry(),  # noqa: B008 (without state)
    ) -> None:
        check_sparsity(sparsity)
        if batches is not None and batches < 1:
            raise InputError(f"batches must be at least 1, or null for the whole training split, got {batches}.")
        self.sparsity = sparsity
        self.criterion = criterion
        self.rule = Rule(scope, pattern, minimum)
        self.schedule = schedule
        self.loss = loss
        self.targets: Targets = targets
        self.batch_norm: BatchNormMode = batch_norm
        self.batches = batches
        self.seed = seed
        self.scoring_data = scoring_data
        self.include_bias = include_bias
        self.include_embedding = include_embedding
        self.exclude = list(exclude or [])
        self.isometry = isometry
        self.record: dict[str, Any] = {}
        self.changes: dict[str, Change] = {}
        self._orthogonality: dict[str, float] = {}
        self._weights: MaskedWeights | None = None
        self._restored_step: int | None = None
        self._unreported: Scores | None = None
        self._cost_line = CostLine()

    @property
    def masks(self) -> Masks | None:
        """Which weights of the module are alive, by name; None until it is pruned."""
        return self._weights.masks if self._weights else None

    def state_dict(self) -> dict[str, Any]:
        """What decided the masks, and the isometry residuals, for the table of a resumed run."""
        return {"record": self.record, "changes": {name: _primitives(change) for name, change in self.changes.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back."""
        self.record = dict(state_dict["record"])
        changes = state_dict.get("changes", {})  # which checkpoints of earlier revisions do not have
        self.changes = {
            name: Change(Residuals(*before), Residuals(*after), *rest)
            for name, (before, after, *rest) in changes.items()
            if rest
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the masks back, and note whether it was trained: LearningRateFinder restores what was not."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._restored_step = int(checkpoint["global_step"])
        if trainer.state.fn == TrainerFn.FITTING and shards(trainer) and "masks" not in checkpoint:
            raise self._no_masks(trainer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before anything runs, what cannot be pruned."""
        self._weights = MaskedWeights.of(pl_module)
        if stage != "fit":
            return
        if len(callbacks_of(trainer, PruneAtInit)) > 1:
            raise InputError("The Trainer has more than one PruneAtInit: a network is pruned once, so keep one.")
        if isinstance(pl_module, SparseClassifier):  # others may make their layers later
            self.rule.check(*self._asked(self._parameters(pl_module.network)))
        check_objective(pl_module, self.loss, self.targets)
        if shards(trainer) and self.masks is None:
            before_sharding(trainer, pl_module, partial(self._prune_whole, trainer, pl_module))
        if self.isometry is not None and self.isometry.redraws and type(self.rule.pattern) is not Unstructured:
            raise InputError(
                f"{type(self.isometry).__name__} draws masks of its own, which do not have the pattern "
                f"{type(self.rule.pattern).__name__}: use pattern: Unstructured, or another isometry."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune and correct, or keep the masks of the checkpoint."""
        if shards(trainer):
            note_pieces(trainer.strategy.model)
            MaskedWeights.of(pl_module).kept_by_callback = True
            return
        super().on_fit_start(trainer, pl_module)
        if self.masks is not None:
            self._check_restored(self.masks)
        elif trainer.ckpt_path and self._restored_step != 0:
            raise self._no_masks(trainer)
        else:
            self._log(trainer, self._prune(trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where weights are sharded, do only now what depends on the checkpoint, which has been restored meanwhile."""
        self._cost_line.on_train_start(trainer, pl_module)
        if shards(trainer):
            super().on_fit_start(trainer, pl_module)
            if self._unreported is not None and not trainer.ckpt_path:
                self._log(trainer, self._unreported)
            elif self.masks is not None:
                self._check_restored(self.masks)
            self._unreported = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Undo what was written since the last batch, and keep an input for the line that tells what it costs."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._cost_line.on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell what the pruned network costs, unless a CostLine of the Trainer's does."""
        if not callbacks_of(trainer, CostLine):
            self._cost_line.on_fit_end(trainer, pl_module)

    def _prune_whole(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unreported = self._prune(trainer, pl_module)
        MaskedWeights.of(pl_module).pause()

    def _no_masks(self, trainer: Trainer) -> InputError:
        return InputError(
            f"{trainer.ckpt_path} holds no masks, so its weights were trained dense, and pruning now would not "
            "be at initialization. Give the checkpoint of a pruned run, or start a new run from its weights "
            "with --model.pretrained."
        )

    def _check_restored(self, masks: Masks) -> None:
        """Refuse masks of another sparsity: by the record where it is theirs, for they may keep fewer than asked."""
        shapes, keep = self._asked(masks)
        if self.record.get("masks_sha256") == masks.digest():
            same = keep_count(masks.size, self.record["sparsity"]) == keep
        else:
            same = self.rule.made(shapes, keep, masks.kept)
        if not same:
            raise InputError(
                f"The network is pruned already, to sparsity {masks.sparsity:.6g}, but {self.sparsity:.6g} is asked "
                "for: masks are never computed again. Ask for the sparsity it has, or start a new run."
            )
        rank_zero_info(f"Masks kept as they are: {masks}")

    def _asked(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, tuple[int, ...]], int]:
        """The shapes of what is pruned, and how many weights of it are to be kept."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return shapes, keep_count(sum(tensor.numel() for tensor in tensors.values()), self.sparsity)

    def _parameters(self, network: nn.Module) -> dict[str, nn.Parameter]:
        return prunable_parameters(network, self.include_bias, self.exclude, self.include_embedding)

    def _prune(self, trainer: Trainer, pl_module: LightningModule) -> Scores:
        run_seed = trainer.strategy.broadcast(torch.initial_seed())  # before a reader of batches seeds the stream anew
        weights = MaskedWeights.of(pl_module)
        parameters = self._parameters(weights.network)
        announce(trainer, pl_module, "dense")
        batches = self._batches(trainer, pl_module) if self.criterion.needs_data else None
        loss = objective(trainer, pl_module, self.loss, self.targets)
        ranks = Ranks(trainer)
        criterion = self.criterion.seeded(run_seed)
        with ranks.together():
            found, scores = find_masks(
                weights.network, parameters, criterion, self.sparsity, batches, self.rule, self.schedule, loss,
                self.batch_norm, ranks,
            )  # fmt: skip
        masks = Masks(trainer.strategy.broadcast(dict(found)))
        collapse = self.rule.collapse_sparsities(scores, self._asked(parameters)[0])
        for name, limit in collapse.items():
            if not masks[name].any():
                rank_zero_warn(
                    f"Layer collapse: {name} has no weight left, from sparsity {limit:.4f} on. Lower the sparsity, "
                    "exclude the layer, keep a minimum of weights in every layer, or give layers densities of their "
                    "own by a scope such as Uniform or ERK."
                )
        weights.hold(masks)
        self._sparse_stage(trainer, pl_module, "pruned")
        if self.isometry is not None and masks.kept < masks.size:
            with ranks.together():
                masks, self.changes = self.isometry.seeded(run_seed)(weights.network, masks)
            weights.hold(masks)
            for name in self.changes:  # equal bit for bit on every process, whatever its hardware
                parameters[name].data.copy_(trainer.strategy.broadcast(parameters[name].detach().cpu()))
            self._sparse_stage(trainer, pl_module, "corrected")
        self.record = self._describe(masks, batches, loss, ranks)
        self.record |= {"run_seed": run_seed, "collapse_sparsity": collapse}
        restart_averages(trainer, pl_module)
        return scores

    def _sparse_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Announce it, and measure how orthogonal its layers are."""
        weights = MaskedWeights.of(pl_module)
        parameters = weights.parameters
        if matrices := [parameters[name] for name, mask in (weights.masks or {}).items() if mask.ndim > 1]:
            self._orthogonality[f"isometry/score/{stage}"] = orthogonality_score(matrices)
        announce(trainer, pl_module, stage)

    def _batches(self, trainer: Trainer, pl_module: LightningModule) -> EvaluationBatches:
        """What to score on."""
        if self.scoring_data is not None:
            if trainer.is_global_zero:
                self.scoring_data.prepare_data()
            trainer.strategy.barrier("scoring data")
            self.scoring_data.setup("fit")
        kind = LabelledBatches if isinstance(pl_module, SparseClassifier) else EvaluationBatches
        batches = kind(trainer, self.scoring_data or datamodule_of(trainer), self.batches, self.seed)
        if not batches.end:
            raise InputError(
                "The training data has no length: say how many batches to score on, PruneAtInit(batches=)."
            )
        return batches

    def _describe(
        self, masks: Masks, batches: EvaluationBatches | None, loss: Objective, ranks: Ranks
    ) -> dict[str, Any]:
        """What decided the masks."""
        record: dict[str, Any] = described("criterion", self.criterion) | {"sparsity": self.sparsity}
        record |= described("scope", self.rule.scope) | described("pattern", self.rule.pattern)
        record |= described("schedule", self.schedule or self.criterion.schedule)
        record |= {
            "minimum": self.rule.minimum,
            "include_bias": self.include_bias,
            "include_embedding": self.include_embedding,
            "exclude": self.exclude,
            "weights": masks.size,
            "kept": masks.kept,
            "masks_sha256": masks.digest(),
        }
        record |= described("isometry", self.isometry) if self.isometry else {"isometry": "none"}
        record["certificate"] = {name: change.certificate() for name, change in self.changes.items()}
        if batches is None:
            return record
        if not isinstance(loss, LossOfLogits):
            record |= described("loss", loss)
        number, examples = batches.counted(ranks)
        return record | {
            "data": batches.source,
            "batches": number,
            "examples": examples,
            "sum": "signed, over examples",
            "seed": self.seed,
            "targets": self.targets,
            "batch_norm": self.batch_norm,
        }

    def _log(self, trainer: Trainer, scores: Scores) -> None:
        assert self.masks is not None
        log_pruning(trainer, self.masks, scores, self.record, self.changes, self._orthogonality)


def _primitives(change: Change) -> list[Any]:
    return [list(value) if isinstance(value, Residuals) else value for value in change]
