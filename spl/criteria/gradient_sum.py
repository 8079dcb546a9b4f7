"""Sums of gradients over batches and processes."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from spl.criteria.processes import Processes


class GradientSum:
    """Σ ∂L/∂w over batches and processes, in float64.

    How batches are grouped then moves the last of 53 bits, of which scores in float32 keep 24: they are those of one
    process. It takes two copies of float32 weights, and gradients are added as they arrive, layer by layer, so that a
    pass holds no third.

    Args:
        tensors: what to differentiate by.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self._total = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self.tensors]

    def add(self, gradients: Iterable[Tensor]) -> None:
        """Add the gradients of a batch."""
        for total, gradient in zip(self._total, gradients, strict=True):
            total.add_(gradient.detach())

    def add_gradient_of(self, value: Tensor) -> None:
        """Add the gradient of a scalar, whose graph is gone afterwards."""
        pairs = zip(self.tensors, self._total, strict=True)
        hooks = [tensor.register_hook(partial(_take, total)) for tensor, total in pairs]  # type: ignore[no-untyped-call]
        try:
            torch.autograd.grad(value, self.tensors, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()

    def over(self, processes: Processes) -> list[Tensor]:
        """The sums over all of them."""
        processes.add_up_(self._total)
        return self._total


def _take(total: Tensor, gradient: Tensor) -> Tensor:
    """Add the gradient, and leave nothing of it behind: what is returned has the memory of one number."""
    total.add_(gradient)
    return gradient.new_zeros(()).expand_as(gradient)


def rounded(scores: list[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores in float64, in the order of `weights`, by name and in their types, or float32 if that is more.

    The list is emptied: no second copy of all is made.
    """
    scores.reverse()
    return {name: scores.pop().to(torch.promote_types(w.dtype, torch.float32)) for name, w in weights.items()}
