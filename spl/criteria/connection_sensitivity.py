"""Connection sensitivity: SNIP in one shot."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject


class ConnectionSensitivity(Criterion):
    """CS: s = |g| / Σ|g| with g = w ∂L/∂w, the gradient with respect to a mask on each weight.

    The signed g are summed over all examples and the absolute value is taken once, at the end.
    Lee et al. 2019 (SNIP) and 2020, equation 2.
    """

    needs_data = True

    def __call__(self, subject: Subject) -> Scores:
        """Scores that sum to 1 over all weights, or are all 0 where no gradient arrives.

        The sums are turned into scores in place: beside one forward and backward pass, one copy of the weights.
        """
        tensors = list(subject.parameters.values())
        total = [torch.zeros_like(tensor) for tensor in tensors]
        for batch in subject.batches:
            value = subject.loss(subject.network, batch)
            torch._foreach_add_(total, torch.autograd.grad(value, tensors, materialize_grads=True))
        torch._foreach_mul_(total, list(subject.weights.values()))
        torch._foreach_abs_(total)
        scale = float(torch.stack([s.sum(dtype=torch.float64) for s in total]).sum())
        if scale > 0:
            for s in total:
                s.copy_(s.double().div_(scale))  # the sum itself may be too large for a float32
        return dict(zip(subject.weights, total, strict=True))
