"""Sums of gradients over batches and processes."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from spl.criteria.processes import Processes


class GradientSum:
    """The sum of ∂L/∂w over batches and processes, in float64.

    The grouping of the batches moves only the last of the 53 bits of a sum, and scores in float32 keep 24 of them. So
    the scores of several processes are those of one. The sum takes the memory of two copies of float32 weights.
    Gradients are added layer by layer as they arrive, so a backward pass needs no third copy.

    Args:
        tensors: the tensors to differentiate by.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self._total = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self.tensors]

    def add(self, gradients: Iterable[Tensor]) -> None:
        """Add the gradients of a batch."""
        for total, gradient in zip(self._total, gradients, strict=True):
            total.add_(gradient.detach())

    def add_gradient_of(self, value: Tensor) -> None:
        """Add the gradient of a scalar, and free its graph."""
        pairs = zip(self.tensors, self._total, strict=True)
        hooks = [tensor.register_hook(partial(_take, total)) for tensor, total in pairs]  # type: ignore[no-untyped-call]
        try:
            torch.autograd.grad(value, self.tensors, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()

    def over(self, processes: Processes) -> list[Tensor]:
        """Return the sums over all processes."""
        processes.add_up_(self._total)
        return self._total


def _take(total: Tensor, gradient: Tensor) -> Tensor:
    """Add the gradient to the total, and return in its place a tensor with the memory of one number."""
    total.add_(gradient)
    return gradient.new_zeros(()).expand_as(gradient)


def rounded(scores: list[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores by name in the types of the weights, or in float32 where that is more precise.

    The list of scores in float64, in the order of `weights`, is emptied, so that no second copy of all is made.
    """
    scores.reverse()
    return {name: scores.pop().to(torch.promote_types(w.dtype, torch.float32)) for name, w in weights.items()}
