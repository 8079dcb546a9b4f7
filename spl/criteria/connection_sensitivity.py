"""Connection sensitivity: in one shot (SNIP), and in rounds while the network shrinks (IterativeSNIP, FORCE)."""

import torch

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.gradient_sum import GradientSum, rounded
from spl.criteria.schedules import Exponential


class ConnectionSensitivity(Criterion):
    """Connection sensitivity (CS, SNIP): `s = |g| / Σ|g|` with `g = w ∂L/∂w`, the gradient by a mask on each weight.

    The signed g are summed over all examples, and the absolute value is taken once, at the end.
    Lee et al. 2019 (SNIP) and 2020, equation 2.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import ConnectionSensitivity
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> masks = prune(network, ConnectionSensitivity(), sparsity=0.75, batches=[batch])
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 8, '2.weight': 6}
    """

    needs_data = True

    def __call__(self, subject: Subject) -> Scores:
        """Return scores that sum to 1 over all weights, or are all 0 if no gradient arrives.

        The gradient sums become scores in place, so the memory beyond one forward and backward pass is that of two
        copies of the weights.
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


class SNIP(ConnectionSensitivity):
    """Connection sensitivity under the name of the method that it comes from (Lee et al. 2019, arXiv:1810.02340).

    The scores are those of `ConnectionSensitivity`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import SNIP, ConnectionSensitivity
        >>> from spl.pruning import prune
        >>> network, batch = nn.Linear(4, 3), (torch.randn(16, 4), torch.randint(3, (16,)))
        >>> prune(network, SNIP(), 0.5, [batch]) == prune(network, ConnectionSensitivity(), 0.5, [batch])
        True
    """


class IterativeSNIP(ConnectionSensitivity):
    """Iterative SNIP: connection sensitivity `|Σ w ∂L/∂w|` of the weights that are left, in 60 rounds.

    The density falls exponentially from round to round. de Jorge et al. 2021 (arXiv:2006.09081), who let the score of
    Lee et al. 2019 (SNIP) see what pruning has done so far. A pruned weight never returns. 60 is the number of rounds
    in the authors' own examples. It reads labelled data.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import IterativeSNIP
        >>> from spl.criteria.schedules import Exponential
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> masks = prune(network, IterativeSNIP(), sparsity=0.75, batches=[batch], schedule=Exponential(5))
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 7, '2.weight': 7}
    """

    schedule = Exponential(60)


class FORCE(ConnectionSensitivity):
    """Foresight connection sensitivity: `|Σ w ∂L/∂w|` with the dense w and ∂L/∂w in the pruned network, in 60 rounds.

    de Jorge et al. 2021 (arXiv:2006.09081). A pruned weight has a score too, and returns if that is large enough. The
    density falls exponentially from round to round, in 60 rounds as in the authors' own examples. It reads labelled
    data.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import FORCE
        >>> from spl.criteria.schedules import Exponential
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> masks = prune(network, FORCE(), sparsity=0.75, batches=[batch], schedule=Exponential(5))
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 7, '2.weight': 7}
    """

    revives = True
    schedule = Exponential(60)
