"""GraSP: gradient signal preservation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.errors import InputError


class GraSP(Criterion):
    """w ⊙ H g: how much the squared norm of the gradient g would fall without the weight; reads labelled data, twice.

    Wang et al. 2020 (2002.07376): removing w changes ‖g‖² by −2 w (H g) to first order, and the weights
    with the largest such change go first, so scores have a sign. g and H are the gradient and the Hessian of the loss
    over all examples, at logits divided by a temperature; H g is exact.

    Args:
        temperature: what the logits are divided by.
    """

    needs_data = True
    passes = 2

    def __init__(self, temperature: float = 200.0) -> None:
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def __call__(self, subject: Subject) -> Scores:
        """Scores of either sign. The data is read once for g and once for H g; a single batch once for both."""
        tensors = list(subject.parameters.values())
        total = [torch.zeros_like(tensor) for tensor in tensors]
        products = [torch.zeros_like(tensor) for tensor in tensors]
        first: tuple[Tensor, ...] = ()
        count = 0
        for count, batch in enumerate(subject.batches, start=1):
            gradient = self._gradient(subject, batch, differentiable=count == 1)
            first = gradient if count == 1 else ()
            torch._foreach_add_(total, [g.detach() for g in gradient])
        for gradient in [first] if count == 1 else self._gradients(subject):
            slope = torch.stack([(g * v).sum() for g, v in zip(gradient, total, strict=True)]).sum()
            torch._foreach_add_(products, torch.autograd.grad(slope, tensors, materialize_grads=True))
        torch._foreach_mul_(products, list(subject.weights.values()))
        return dict(zip(subject.weights, products, strict=True))

    def _gradients(self, subject: Subject) -> Iterator[tuple[Tensor, ...]]:
        for batch in subject.batches:
            yield self._gradient(subject, batch, differentiable=True)

    def _gradient(self, subject: Subject, batch: Any, differentiable: bool) -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            value = subject.loss.tempered(self.temperature)(subject.network, batch)
        tensors = list(subject.parameters.values())
        return torch.autograd.grad(value, tensors, create_graph=differentiable, materialize_grads=True)
