"""SynFlow: iterative synaptic flow pruning."""

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.objective import floating_inputs
from spl.criteria.schedules import Exponential
from spl.criteria.synaptic_flow import SynapticFlow


class SynFlow(Criterion):
    """Synaptic flow: `|w| ⊙ ∂R/∂|w|`, the flow of `R = 1ᵀ f(1)` through each weight, in 100 rounds.

    Tanaka et al. 2020 (arXiv:2006.05467), equation 2. f is the network without biases and activations and with
    absolute weights (see `path_gradients`), in float64. What flows into a hidden unit flows out of it. So with rounds
    of exponentially falling density, no layer loses its last weight before the others have lost theirs. Of the data it
    reads only the shape of one batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import SynFlow
        >>> from spl.criteria.schedules import Exponential
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.zeros(16, 4), torch.zeros(16)
        >>> masks = prune(network, SynFlow(), sparsity=0.9, batches=[batch], schedule=Exponential(10))
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 3, '2.weight': 3}
    """

    needs_data = True
    reads = "shape"
    schedule = Exponential(100)

    def __call__(self, subject: Subject) -> Scores:
        """Return non-negative scores, 0 where a weight is pruned."""
        flow = subject.memo.get(self)
        if flow is None or flow.network is not subject.network:
            inputs = floating_inputs(subject.first_batch, "SynFlow")
            flow = subject.memo[self] = SynapticFlow(subject.network, subject.weights, inputs)
        return flow.scores()
