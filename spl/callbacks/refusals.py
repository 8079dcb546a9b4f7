"""Surroundings in which PruneAtInit would do wrong, and which it therefore refuses by name."""

from spl.callbacks.lightning_private import trains_in_copies
from spl.callbacks.trainer import callbacks_of
from spl.errors import InputError
from spl.isometry import Correction
from spl.lightning_api import ModelPruning, Trainer
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
