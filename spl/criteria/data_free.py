"""Criteria without data: the magnitude of the weights, and random scores."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject


class Magnitude(Criterion):
    """The magnitude `|w|` of each weight, the usual criterion for pretrained networks.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.pruning import prune
        >>> network = nn.Linear(3, 1)
        >>> _ = network.weight.data.copy_(torch.tensor([[0.5, -2.0, 0.1]]))
        >>> prune(network, Magnitude(), sparsity=1 / 3)["weight"]
        tensor([[ True,  True, False]])
    """

    needs_data = False

    def __call__(self, subject: Subject) -> Scores:
        """Return the absolute weights."""
        return {name: weight.abs() for name, weight in subject.weights.items()}


class Random(Criterion):
    """Random scores, independent and uniform.

    They are drawn on the CPU from a random stream of their own, so they are equal on every rank and device.

    Args:
        seed: the seed of that stream; null for a number that the seed of the run decides, so that the draws are
            independent of the weights. The seed of the run itself, given here, repeats the numbers from which the
            weights were drawn if the network was made right after seeding. The mask of the first layer then keeps its
            largest weights.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Random
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> masks = prune(network, Random(seed=0), sparsity=0.75)
        >>> sum(mask.sum().item() for mask in masks.values())
        14
        >>> masks == prune(network, Random(seed=0), sparsity=0.75)
        True
    """

    needs_data = False

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Return uniform scores in [0, 1)."""
        generator = torch.Generator().manual_seed(self.start)
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in subject.weights.items()
        }
