"""PruneAtInit: prunes, and corrects, before the first training step."""

import os
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from tqdm import tqdm

from spl import tensorboard
from spl.callbacks.batches import EvaluationBatches
from spl.callbacks.run import callbacks_of, datamodule_of, run_folder
from spl.callbacks.stages import announce
from spl.criteria import ConnectionSensitivity, Criterion, Scores, Targets
from spl.errors import InputError
from spl.isometry import ApproximateIsometry, Change, Correction, Residuals
from spl.masks import Masks
from spl.modes import BatchNormMode
from spl.module import SparseClassifier
from spl.pruning import (
    Scope,
    check_sparsity,
    collapsed_layers,
    comparable,
    keep_count,
    prunable_parameters,
    score,
    select,
)


class PruneAtInit(Callback):
    """Prune a `SparseClassifier` at initialization and bring what is left back to approximate isometry.

    Runs once, when fit starts: the weights are on their device, equal on all processes and not yet trained. A
    resumed fit takes its masks from the checkpoint and scores nothing.

    Args:
        sparsity: share of weights to remove, in [0, 1). At 0 the run is bit for bit the dense one.
        criterion: what scores the weights.
        scope: compare scores over all layers (global), or give every layer the same sparsity (layerwise).
        targets: what the scoring loss compares the prediction with: labels, or without labels the uniform
            distribution or the network's own prediction, as logits or as softmax.
        batch_norm: BatchNorm while scoring: running statistics, fresh at initialization (eval), or those of each
            batch (batch).
        batches: number of batches to score on; the whole training split without one.
        seed: of the order in which the scoring batches are drawn.
        scoring_data: score on another data set than the one to train on (transfer of sparsity).
        include_bias: prune biases too, as the paper counts them.
        exclude: shell patterns of parameter names that stay dense, such as fc7.* or *.bias.
        isometry: the correction after pruning; null for none.
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        criterion: Criterion = ConnectionSensitivity(),  # noqa: B008 (without state)
        scope: Scope = "global",
        targets: Targets = "labels",
        batch_norm: BatchNormMode = "eval",
        batches: int | None = None,
        seed: int = 0,
        scoring_data: LightningDataModule | None = None,
        include_bias: bool = False,
        exclude: list[str] | None = None,
        isometry: Correction | None = ApproximateIsometry(),  # noqa: B008 (without state)
    ) -> None:
        check_sparsity(sparsity)
        if batches is not None and batches < 1:
            raise InputError(f"batches must be at least 1, or null for the whole training split, got {batches}.")
        self.sparsity = sparsity
        self.criterion = criterion
        self.scope: Scope = scope
        self.targets: Targets = targets
        self.batch_norm: BatchNormMode = batch_norm
        self.batches = batches
        self.seed = seed
        self.scoring_data = scoring_data
        self.include_bias = include_bias
        self.exclude = list(exclude or [])
        self.isometry = isometry
        self.record: dict[str, Any] = {}
        self.changes: dict[str, Change] = {}

    def state_dict(self) -> dict[str, Any]:
        """What decided the masks, and the isometry residuals, for the table of a resumed run."""
        return {"record": self.record, "changes": {name: _primitives(change) for name, change in self.changes.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back."""
        self.record = state_dict["record"]
        changes = state_dict.get("changes", {})  # which checkpoints of earlier revisions do not have
        self.changes = {
            name: Change(Residuals(*before), Residuals(*after), *rest)
            for name, (before, after, *rest) in changes.items()
            if rest
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before anything runs, what cannot be pruned."""
        if stage != "fit":
            return
        if len(callbacks_of(trainer, PruneAtInit)) > 1:
            raise InputError("The Trainer has more than one PruneAtInit: a network is pruned once, so keep one.")
        if trainer.strategy.restore_checkpoint_after_setup:
            raise InputError(
                f"PruneAtInit does not support {type(trainer.strategy).__name__}, which shards the weights before "
                "they can be scored: use trainer.strategy auto, ddp or single_device."
            )
        classifier = _sparse(pl_module)
        parameters = prunable_parameters(classifier.network, self.include_bias, self.exclude)
        keep_count(sum(p.numel() for p in parameters.values()), self.sparsity)
        if self.criterion.needs_data:
            self._data(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune and correct, or keep the masks of the checkpoint."""
        classifier = _sparse(pl_module)
        if classifier.masks is not None:
            self._check_restored(classifier.masks)
        elif trainer.ckpt_path:
            raise InputError(
                f"{trainer.ckpt_path} holds no masks, so its weights were trained dense, and pruning now would not "
                "be at initialization. Give the checkpoint of a pruned run, or start a new run from its weights "
                "with --model.pretrained."
            )
        else:
            self._prune(trainer, classifier)

    def _check_restored(self, masks: Masks) -> None:
        if masks.kept != keep_count(masks.size, self.sparsity):
            raise InputError(
                f"The network is pruned already, to sparsity {masks.sparsity:.6g}, but {self.sparsity:.6g} is asked "
                "for: masks are never computed again. Ask for the sparsity it has, or start a new run."
            )
        rank_zero_info(f"Masks kept as they are: {masks}")

    def _data(self, trainer: Trainer) -> LightningDataModule:
        datamodule = self.scoring_data or datamodule_of(trainer)
        if datamodule is None:
            raise InputError(
                f"{type(self.criterion).__name__} scores weights on data: pass a DataModule to fit, or one to "
                "PruneAtInit(scoring_data=...), or use a criterion without data (Magnitude, Random)."
            )
        return datamodule

    def _prune(self, trainer: Trainer, classifier: SparseClassifier) -> None:
        parameters = prunable_parameters(classifier.network, self.include_bias, self.exclude)
        announce(trainer, classifier, "dense")
        scores, data_record = self._score(trainer, classifier, parameters)
        chosen = select(scores, self.sparsity, self.scope)
        masks = Masks(trainer.strategy.broadcast(dict(chosen)))
        for name, limit in collapsed_layers(comparable(scores, self.scope), chosen).items():
            rank_zero_warn(
                f"Layer collapse: {name} has no weight left, from sparsity {limit:.4f} on. Lower the sparsity, "
                "exclude the layer, or compare layer by layer with scope: layerwise."
            )
        classifier.set_masks(masks)
        announce(trainer, classifier, "pruned")
        if self.isometry is not None and masks.kept < masks.size:
            masks, self.changes = self.isometry(classifier.network, masks)
            classifier.set_masks(masks)
            for name in self.changes:  # equal bit for bit on every process, whatever its hardware
                parameters[name].data.copy_(trainer.strategy.broadcast(parameters[name].detach().cpu()))
            announce(trainer, classifier, "corrected")
        self.record = self._describe(masks) | data_record
        self._log(trainer, masks, scores)

    def _score(
        self, trainer: Trainer, classifier: SparseClassifier, parameters: dict[str, torch.nn.Parameter]
    ) -> tuple[Scores, dict[str, Any]]:
        """Scores, and what is to be recorded of the data that they are from."""
        if not self.criterion.needs_data:
            return score(classifier.network, parameters, self.criterion), {}
        datamodule = self._data(trainer)
        if self.scoring_data is not None:
            if trainer.is_global_zero:
                datamodule.prepare_data()
            trainer.strategy.barrier("scoring data")
            datamodule.setup("fit")
        batches = EvaluationBatches(trainer, datamodule, self.batches, self.seed)
        progress = tqdm(batches, desc="Scoring", unit="batch", delay=1, leave=False, disable=None)
        scores = score(classifier.network, parameters, self.criterion, progress, self.targets, self.batch_norm)
        return scores, {
            "data": type(datamodule).__name__,
            "batches": batches.batches,
            "examples": batches.examples,
            "sum": "signed, over examples",
            "seed": self.seed,
            "targets": self.targets,
            "batch_norm": self.batch_norm,
        }

    def _describe(self, masks: Masks) -> dict[str, Any]:
        return {
            "criterion": type(self.criterion).__name__,
            "criterion_args": dict(vars(self.criterion)),
            "sparsity": self.sparsity,
            "scope": self.scope,
            "include_bias": self.include_bias,
            "exclude": self.exclude,
            "weights": masks.size,
            "kept": masks.kept,
            "masks_sha256": masks.digest(),
            "isometry": type(self.isometry).__name__ if self.isometry else "none",
        }

    def _log(self, trainer: Trainer, masks: Masks, scores: Scores) -> None:
        rank_zero_info(f"Pruned at initialization: {masks}")
        if trainer.logger is None or not trainer.is_global_zero:
            return
        sparsities = {f"sparsity/{tensorboard.layer(n)}": s for n, s in masks.layer_sparsity().items()}
        trainer.logger.log_metrics({"sparsity/global": masks.sparsity} | sparsities, step=0)
        if folder := run_folder(trainer):
            (folder / "pruning.yaml").write_text(yaml.safe_dump(self.record, sort_keys=False))
        if writer := tensorboard.writer(trainer):
            tensorboard.add_masks(writer, masks)
            tensorboard.add_saliency(writer, scores)
            seed = int(os.environ.get("PL_GLOBAL_SEED", -1))
            choices = {key: self.record[key] for key in ("criterion", "sparsity", "scope", "isometry")}
            tensorboard.add_hyperparameters(writer, choices | {"seed": seed}, ["accuracy/test"])


def _sparse(pl_module: LightningModule) -> SparseClassifier:
    if not isinstance(pl_module, SparseClassifier):
        raise InputError(
            f"PruneAtInit prunes a SparseClassifier, got {type(pl_module).__name__}: wrap the network, "
            "SparseClassifier(network)."
        )
    return pl_module


def _primitives(change: Change) -> list[Any]:
    return [list(value) if isinstance(value, Residuals) else value for value in change]
