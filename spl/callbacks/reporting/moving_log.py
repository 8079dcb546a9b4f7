"""The log of an update of the masks."""

import torch
from torch import Tensor, nn

from spl.callbacks.reporting import tensorboard
from spl.callbacks.stages import StageListener
from spl.callbacks.trainer import callbacks_of
from spl.diagnosis import find_paths
from spl.lightning_api import LightningModule, Trainer
from spl.masks.masked_steps import is_power_of_two
from spl.masks.masks import Masks
from spl.pruning.parameters import oriented_masks, prunable_parameters
from spl.updates import MovingMasks


def log_move(trainer: Trainer, pl_module: LightningModule, moving: MovingMasks, example: Tensor | None) -> None:
    """Log an update of the masks, and tell the listeners; all processes call this.

    Args:
        trainer: the Trainer that has the loggers.
        pl_module: the module in training.
        moving: the masks after the update.
        example: one input of the network, [1, ...]; None to leave out the effective sparsity.
    """
    masks, step = moving.held.masks, trainer.global_step
    assert masks is not None
    if trainer.is_global_zero and trainer.loggers:
        numbers = {
            "sparsity": masks.sparsity,
            "ever_active": moving.active.kept / masks.size,
            "overlap": moving.overlap(),
            "moved": float(moving.moved),
        }
        effective = _effective_sparsity(moving.held.network, masks, example)
        if effective is not None:
            numbers["effective_sparsity"] = effective
        for logger in trainer.loggers:
            logger.log_metrics({f"masks/{name}": value for name, value in numbers.items()}, step=step)
        writer = tensorboard.writer(trainer)
        if writer is not None and is_power_of_two(moving.updates):  # TensorBoard shows ten images of a tag at most
            tensorboard.add_masks(writer, oriented_masks(moving.held.network, masks), step)
    for listener in callbacks_of(trainer, StageListener):
        listener.on_masks_moved(trainer, pl_module)


def _effective_sparsity(network: nn.Module, masks: Masks, example: Tensor | None) -> float | None:
    """Return the share of the weights under masks that lie on no path; None if the network cannot be followed."""
    if example is None:
        return None
    try:
        weights = prunable_parameters(network)
        own = {name: mask for name, mask in masks.items() if name in weights}
        dense = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        device = next(iter(weights.values())).device
        paths = find_paths(network, dense | own, example.to(device)).weights
    except Exception:  # of a forward that takes something else than one tensor
        return None
    size = sum(mask.numel() for mask in own.values())
    return 1.0 - sum(int(paths[name].count_nonzero()) for name in own) / size if size else None
