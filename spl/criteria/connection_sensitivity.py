"""Connection sensitivity: SNIP in one shot."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.gradient_sum import GradientSum, rounded


class ConnectionSensitivity(Criterion):
    """CS: s = |g| / Σ|g| with g = w ∂L/∂w, the gradient with respect to a mask on each weight.

    The signed g are summed over all examples and the absolute value is taken once, at the end.
    Lee et al. 2019 (SNIP) and 2020, equation 2.
    """

    needs_data = True

    def __call__(self, subject: Subject) -> Scores:
        """Scores that sum to 1 over all weights, or are all 0 where no gradient arrives.

        The sums are turned into scores in place: beside one forward and backward pass, two copies of the weights.
        """
        gradients = GradientSum(subject.parameters.values())
        for batch in subject.own_batches:
            gradients.add_gradient_of(subject.loss(subject.network, batch))
        total = gradients.over(subject.processes)
        for s, weight in zip(total, subject.weights.values(), strict=True):
            s.mul_(weight).abs_()
        scale = float(torch.stack([s.sum() for s in total]).sum())
        if scale > 0:
            torch._foreach_div_(total, scale)
        return rounded(total, subject.weights)
