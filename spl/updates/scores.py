"""Scores of weights: those with the largest are dropped, or grown."""

from collections.abc import Callable

import torch
from torch import Tensor

from spl.updates.update import Snapshot

Score = Callable[[Snapshot, str], Tensor]
"""A function from a snapshot and the name of a layer to a score for each of its weights."""


def smallest_magnitude(now: Snapshot, name: str) -> Tensor:
    """Return −|w|, by which the smallest weights are dropped first.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import Snapshot, smallest_magnitude
        >>> masks = Masks({"weight": torch.tensor([True, True])})
        >>> smallest_magnitude(Snapshot(masks, {"weight": torch.tensor([0.5, -2.0])}, {}, masks, 1, 1), "weight")
        tensor([-0.5000, -2.0000])
    """
    return -now.weights[name].abs()


def at_random(now: Snapshot, name: str) -> Tensor:
    """Return random numbers in [0, 1), drawn on the CPU so that they are the same on every device.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import Snapshot, at_random
        >>> masks = Masks({"weight": torch.tensor([True, True])})
        >>> at_random(Snapshot(masks, {}, {}, masks, 1, 1), "weight").shape
        torch.Size([2])
    """
    return torch.rand(now.masks[name].shape)


def largest_gradient(now: Snapshot, name: str) -> Tensor:
    """Return `|∂L/∂w|`, also for weights that are pruned.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import Snapshot, largest_gradient
        >>> masks = Masks({"weight": torch.tensor([False, False])})
        >>> largest_gradient(Snapshot(masks, {}, {"weight": torch.tensor([0.5, -2.0])}, masks, 1, 1), "weight")
        tensor([0.5000, 2.0000])
    """
    return now.gradients[name].abs()
