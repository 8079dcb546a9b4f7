"""Surroundings in which PruneAtInit would do wrong, and which it therefore refuses by name."""

from collections.abc import Mapping
from typing import Any

from spl.callbacks.lightning_private import trains_in_copies
from spl.callbacks.move_masks import MoveMasks
from spl.callbacks.reporting.record import coverage_text
from spl.callbacks.trainer import callbacks_of
from spl.errors import InputError
from spl.isometry import Correction
from spl.lightning_api import ModelPruning, Trainer, rank_zero_info
from spl.masks.masks import Masks
from spl.pruning import PruningChoices, keep_count
from spl.pruning.pattern import Pattern
from spl.pruning.patterns import Unstructured

COPIES = (
    "The strategy trains copies of the module in processes that it spawns or forks, and the masks would be lost with "
    "them: use trainer.strategy ddp, in a script (ddp_spawn, ddp_fork and ddp_notebook are such strategies). In a "
    "notebook use one device."
)


def check_copies(trainer: Trainer) -> None:
    """Refuse a strategy that trains copies of the module: only their weights would come back.

    Example:
        >>> options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
        >>> check_copies(Trainer(strategy="ddp", **options))
        >>> check_copies(Trainer(strategy="ddp_spawn", **options))
        Traceback (most recent call last):
        spl.errors.InputError: The strategy trains copies of the module ...
    """
    if trains_in_copies(trainer):
        raise InputError(COPIES)


def check_callbacks(trainer: Trainer) -> None:
    """Refuse Lightning's ModelPruning, which replaces the weights by products of others and prunes while it trains.

    Example:
        >>> options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        >>> check_callbacks(Trainer(callbacks=[ModelPruning("l1_unstructured")], **options))
        Traceback (most recent call last):
        spl.errors.InputError: The Trainer has both PruneAtInit and Lightning's ModelPruning, ...
    """
    if callbacks_of(trainer, ModelPruning):
        raise InputError(
            "The Trainer has both PruneAtInit and Lightning's ModelPruning, which computes the weights from others "
            "(weight_orig, weight_mask), so that masks do not fit them: keep one of the two callbacks."
        )


def check_redrawn(isometry: Correction | None, pattern: Pattern) -> None:
    """Refuse a correction that draws masks of its own where a pattern is asked for, which these would not have."""
    if isometry is not None and isometry.redraws and type(pattern) is not Unstructured:
        raise InputError(
            f"{type(isometry).__name__} draws masks of its own, which do not have the pattern "
            f"{type(pattern).__name__}: use pattern: Unstructured, or another isometry."
        )


def check_moving(trainer: Trainer, pattern: Pattern) -> None:
    """Refuse an update of the masks that would destroy their pattern.

    Example:
        >>> from spl.callbacks.refusals import check_moving
        >>> from spl.pruning.patterns import NM
        >>> from spl.updates import SET
        >>> options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
        >>> check_moving(Trainer(callbacks=[MoveMasks(SET())], **options), NM(2, 4))
        Traceback (most recent call last):
        spl.errors.InputError: SET moves single weights, so that the masks would lose the pattern NM: ...
    """
    for moving in callbacks_of(trainer, MoveMasks):
        if moving.update is not None:
            moving.update.check_pattern(pattern)


def check_restored(trainer: Trainer, choices: PruningChoices, record: Mapping[str, Any], masks: Masks) -> None:
    """Refuse masks of another sparsity than is asked for.

    The record knows the sparsity of masks that keep fewer weights than were asked for. Where masks move while the
    network trains, those at the beginning of the training count.

    Args:
        trainer: the Trainer, which may have a callback that moves the masks.
        choices: what is asked for.
        record: the record of the pruning.
        masks: the masks of the network.

    Raises:
        InputError: the masks have another sparsity.
    """
    first = next((moving.first for moving in callbacks_of(trainer, MoveMasks) if moving.first is not None), masks)
    shapes, keep = choices.sizes(first)
    if record.get("masks_sha256") == first.digest():
        same = keep_count(first.size, record["sparsity"]) == keep
    else:
        same = choices.could_have_made(shapes, keep, first.kept)
    if not same:
        raise InputError(
            f"The network is pruned already, to sparsity {first.sparsity:.6g}, but {choices.sparsity:.6g} is asked "
            "for: masks are never computed again. Ask for the sparsity it has, or start a new run."
        )
    rank_zero_info(f"Masks kept as they are: {masks}{coverage_text(record)}")


def without_masks(trainer: Trainer) -> InputError:
    """Return the error that refuses a checkpoint without masks.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl.callbacks.refusals import without_masks
        >>> without_masks(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))
        InputError('None holds no masks, so its weights were trained dense, ...
    """
    return InputError(
        f"{trainer.ckpt_path} holds no masks, so its weights were trained dense, and pruning now would not be at "
        "initialization. Give the checkpoint of a pruned run, or start a new run from its weights with "
        "--model.pretrained."
    )
