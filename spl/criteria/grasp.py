"""GraSP: gradient signal preservation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.gradient_sum import GradientSum, rounded
from spl.criteria.second_derivatives import differentiable_gradient, named_operators
from spl.errors import InputError


class GraSP(Criterion):
    """Gradient signal preservation: w ⊙ H g, how much the squared norm of the gradient g falls without the weight.

    Wang et al. 2020 (arXiv:2002.07376): removing w changes ‖g‖² by −2 w (H g) to first order. The weights with the
    largest such change go first, so scores have a sign. g and H are the gradient and the Hessian of the loss over all
    examples, at logits divided by a temperature. H g is exact. It reads labelled data, twice. Networks and losses with
    an operator that has no second derivative are refused, such as the CTC loss.

    Args:
        temperature: the divisor of the logits.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import GraSP
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> masks = prune(network, GraSP(), sparsity=0.75, batches=[batch])
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 6, '2.weight': 8}
    """

    needs_data = True
    passes = 2

    def __init__(self, temperature: float = 200.0) -> None:
        if not temperature > 0:
            raise InputError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def __call__(self, subject: Subject) -> Scores:
        """Return scores of either sign.

        The data is read once for g and once for H g; a single batch is read once for both.
        """
        gradients = GradientSum(subject.parameters.values())
        first: list[Tensor] = []
        count = 0
        for count, batch in enumerate(subject.own_batches, start=1):
            first = self._gradient(subject, batch) if count == 1 else []
            if first:
                gradients.add(first)
            else:
                gradients.add_gradient_of(self._loss(subject, batch))
        total = rounded(gradients.over(subject.processes), subject.weights).values()
        products = GradientSum(gradients.tensors)
        for gradient in [first] if count == 1 else self._gradients(subject):
            slope = torch.stack([(g * v).sum() for g, v in zip(gradient, total, strict=True)]).sum()
            if slope.requires_grad:  # it does not if the batch had no loss
                with named_operators():
                    products.add_gradient_of(slope)
        scores = products.over(subject.processes)
        torch._foreach_mul_(scores, list(subject.weights.values()))
        return rounded(scores, subject.weights)

    def _gradients(self, subject: Subject) -> Iterator[list[Tensor]]:
        for batch in subject.own_batches:
            yield self._gradient(subject, batch)

    def _gradient(self, subject: Subject, batch: Any) -> list[Tensor]:
        """Return the gradient of the loss on a batch; it is differentiable itself."""
        return differentiable_gradient(self._loss(subject, batch), list(subject.parameters.values()))

    def _loss(self, subject: Subject, batch: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
            return subject.loss.tempered(self.temperature)(subject.network, batch)
