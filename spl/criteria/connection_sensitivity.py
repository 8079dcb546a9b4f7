"""Connection sensitivity: in one shot (SNIP), and in rounds while the network shrinks (IterativeSNIP, FORCE)."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.gradient_sum import GradientSum, rounded
from spl.criteria.schedules import Exponential


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


class IterativeSNIP(ConnectionSensitivity):
    """|Σ w ∂L/∂w| of the weights that are left, in 60 rounds of exponentially falling density; reads labelled data.

    de Jorge et al. 2021 (2006.09081), who let the score of Lee et al. 2019 (SNIP) see what pruning has done so far. A
    pruned weight never returns. 60 is the number of rounds in the authors' own examples.
    """

    schedule = Exponential(60)


class FORCE(ConnectionSensitivity):
    """Foresight connection sensitivity: |Σ w ∂L/∂w|, w dense and ∂L/∂w in the pruned network; reads labelled data.

    de Jorge et al. 2021 (2006.09081). A pruned weight has a score too, and returns if it is large enough.
    In 60 rounds of exponentially falling density, as in the authors' own examples.
    """

    revives = True
    schedule = Exponential(60)
