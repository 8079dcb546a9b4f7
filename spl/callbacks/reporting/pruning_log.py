"""The log of a pruning: scalars, `pruning.yaml`, images of masks and histograms of scores."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spl.callbacks.reporting import tensorboard
from spl.callbacks.reporting.record import coverage_text
from spl.callbacks.reporting.run_names import method_name, network_name
from spl.callbacks.trainer import datamodule_of, run_folder
from spl.classifier import SparseClassifier
from spl.criteria import Scores
from spl.files import write_whole
from spl.isometry import Change
from spl.lightning_api import Trainer, rank_zero_info
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.pruning.parameters import oriented_masks


def log_pruning(
    trainer: Trainer,
    masks: Masks,
    scores: Scores,
    record: Mapping[str, Any],
    changes: Mapping[str, Change],
    orthogonality: Mapping[str, float],
) -> None:
    """Log what was pruned, on the first process.

    Args:
        trainer: the Trainer that has the logger and the run's folder.
        masks: the masks of the kept weights.
        scores: the saliency scores that decided which weights are kept.
        record: the settings of the pruning, for `pruning.yaml`.
        changes: what the correction did, by layer.
        orthogonality: the orthogonality scores of the layers, by the name of the scalar.
    """
    corrected = "" if record["isometry"] == "none" else f", corrected by {record['isometry']}"
    rank_zero_info(f"Pruned at initialization by {record['criterion']}: {masks}{corrected}{coverage_text(record)}")
    if trainer.logger is None or not trainer.is_global_zero:
        return
    sparsities = {f"sparsity/{tensorboard.layer(n)}": s for n, s in masks.layer_sparsity().items()}
    gaps = {f"isometry/gap/{tensorboard.layer(n)}": c.after.matrix - c.floor for n, c in changes.items()}
    trainer.logger.log_metrics({"sparsity/global": masks.sparsity} | sparsities | gaps | dict(orthogonality), step=0)
    if folder := run_folder(trainer):
        write_whole(folder / "pruning.yaml", yaml.safe_dump(dict(record), sort_keys=False).encode())
    if writer := tensorboard.writer(trainer):
        tensorboard.add_masks(writer, oriented_masks(MaskedWeights.of(trainer.lightning_module).network, masks))
        tensorboard.add_saliency(writer, scores)
        tensorboard.add_layout(writer, isinstance(trainer.lightning_module, SparseClassifier))
        choices, metrics = _hyperparameters(trainer, record), [tensorboard.START, "accuracy/test"]
        method = method_name(record["criterion"], record["isometry"])
        run = "/".join(Path(writer.log_dir).parts[-2:])
        trial = f"{method}, {record['sparsity']:g}, seed {choices['seed']} ({run})"
        tensorboard.add_hyperparameters(writer, choices, metrics, trial)


def _hyperparameters(trainer: Trainer, record: Mapping[str, Any]) -> dict[str, str | float | int]:
    """Return what tells runs apart in a comparison of many."""
    data = type(datamodule_of(trainer)).__name__ if datamodule_of(trainer) else record.get("data", "")
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {
        "network": network_name(trainer.lightning_module),
        "data": data,
        **{key: record[key] for key in ("criterion", "pattern", "scope", "sparsity", "isometry")},
        **({"learning rate": float(rates[0])} if rates else {}),
        "seed": int(os.environ.get("PL_GLOBAL_SEED", -1)),
    }
