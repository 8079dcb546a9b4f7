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
        seed: where that stream begins; null for a number that the seed of the run decides, whose draws are independent
            of the weights. The seed of the run itself, given here, repeats the numbers from which weights were drawn,
            if the network was made right after seeding: the mask of the first layer then keeps its largest weights.
    """

    needs_data = False

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Uniform scores in [0, 1)."""
        generator = torch.Generator().manual_seed(self.start)
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in subject.weights.items()
        }
