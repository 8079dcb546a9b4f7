"""SynFlow: iterative synaptic flow pruning."""

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.objective import floating_inputs
from spl.criteria.schedules import Exponential
from spl.criteria.synaptic_flow import SynapticFlow


class SynFlow(Criterion):
    """Synaptic flow: |w| ⊙ ∂R/∂|w|, the flow of R = 1ᵀ f(1) through each weight, in 100 rounds.

    Tanaka et al. 2020 (arXiv:2006.05467), equation 2. f is the network without biases and activations and with
    absolute weights (see `path_gradients`), in float64. What flows into a hidden unit flows out of it. So with rounds
    of exponentially falling density, no layer loses its last weight before the others have lost theirs. Of the data it
    reads only the shape of one batch.
    """

    needs_data = True
    schedule = Exponential(100)

    def __call__(self, subject: Subject) -> Scores:
        """Return non-negative scores, 0 where a weight is pruned."""
        flow = subject.memo.get(self)
        if flow is None or flow.network is not subject.network:
            inputs = floating_inputs(subject.first_batch, "SynFlow")
            flow = subject.memo[self] = SynapticFlow(subject.network, subject.weights, inputs)
        return flow.scores()
