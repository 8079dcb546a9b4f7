"""Criteria and a network of a user, which other processes import by their paths."""

import torch
from torch import Tensor, nn

from spl.criteria import Criterion, Scores, Subject


class Largest(Criterion):
    """The magnitude of each weight times a number."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, subject: Subject) -> Scores:
        """Return the scores."""
        return {name: self.factor * weight.detach().abs() for name, weight in subject.weights.items()}


class Broken(Criterion):
    """A criterion that fails."""

    def __call__(self, subject: Subject) -> Scores:
        """Fail."""
        raise RuntimeError("no scores today")


class Branching(nn.Module):
    """A network that looks at the values of its input, which a stack of networks cannot."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.last(hidden if hidden.mean() < 1e6 else hidden / 2)
