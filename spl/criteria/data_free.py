"""Criteria that look at nothing but the weights, or not even at them."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject


class Magnitude(Criterion):
    """|w|: the usual choice on a pretrained network."""

    needs_data = False

    def __call__(self, subject: Subject) -> Scores:
        """The absolute weights."""
        return {name: weight.abs() for name, weight in subject.weights.items()}


class Random(Criterion):
    """Independent uniform scores, drawn on the CPU from a stream of their own: equal on every rank and device.

    Args:
        seed: of that stream.
    """

    needs_data = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Uniform scores in [0, 1)."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in subject.weights.items()
        }
