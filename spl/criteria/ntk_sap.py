"""NTK-SAP: the sensitivity of the neural tangent kernel's spectrum to each weight."""

from operator import methodcaller

import torch
from torch import Tensor, nn

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.objective import floating_inputs
from spl.criteria.schedules import Exponential
from spl.errors import InputError
from spl.functional.seeded import cpu_copy, seeded
from spl.functional.substitution import substituted
from spl.initializers import HeNormal, Initializer


class NTKSAP(Criterion):
    """Neural tangent kernel spectrum-aware pruning: `|∂/∂m E‖f(z; θ ⊙ m) − f(z; (θ + Δθ) ⊙ m)‖²|` with the mask m.

    Wang, Li & Sun 2023 (arXiv:2304.02840): the expectation is the trace of the tangent kernel, up to the factor ε².
    Inputs z are standard normal, Δθ is normal with standard deviation ε, and θ is drawn anew each time, so that no
    single initialization decides. The defaults are the authors' for CIFAR-10, in 20 rounds of exponentially falling
    density. The authors let BatchNorm normalize by the statistics of z, which is `batch_norm: batch`. Everything is
    drawn on the CPU from a random stream of its own, so it is equal on every rank and device. Of the data it reads
    only the shape of one batch.

    Args:
        perturbation: ε.
        draws: the number of z, θ and Δθ that a round averages over.
        initializer: the initializer that draws θ; null for the network's own weights.
        seed: the seed of that stream; null for a number that the seed of the run decides.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import NTKSAP
        >>> from spl.criteria.schedules import Exponential
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.zeros(16, 4), torch.zeros(16)
        >>> masks = prune(network, NTKSAP(seed=0), sparsity=0.75, batches=[batch], schedule=Exponential(3))
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 8, '2.weight': 6}
    """

    needs_data = True
    reads = "shape"
    schedule = Exponential(20)

    def __init__(
        self,
        perturbation: float = 0.01,
        draws: int = 5,
        initializer: Initializer | None = HeNormal(),
        seed: int | None = None,
    ) -> None:
        if not perturbation > 0:
            raise InputError(f"perturbation must be positive, got {perturbation}.")
        if draws < 1:
            raise InputError(f"draws must be at least 1, got {draws}.")
        self.perturbation = perturbation
        self.draws = draws
        self.initializer = initializer
        self.seed = seed

    def __call__(self, subject: Subject) -> Scores:
        """Return the absolute gradients with respect to the mask."""
        inputs = floating_inputs(subject.first_batch, "NTK-SAP")
        leaves = {
            name: (torch.ones_like(w) if subject.masks is None else subject.masks[name].to(w)).requires_grad_()
            for name, w in subject.weights.items()
        }
        total = [torch.zeros_like(mask) for mask in leaves.values()]
        twin = cpu_copy(subject.network)
        parameters = dict(twin.named_parameters())
        with seeded(self.start + subject.keep):  # so that each round has draws of its own
            for _ in range(self.draws):
                if self.initializer is not None:
                    self.initializer(twin)
                weights = {name: parameters[name].detach() for name in leaves}
                others = {name: w + self.perturbation * torch.randn_like(w) for name, w in weights.items()}
                z = torch.randn(inputs.shape, dtype=inputs.dtype).to(inputs.device)
                scale = 2 / (self.draws * len(z))
                g = _output(subject.network, leaves, others, z)
                f, gradients = _output_and_gradients(subject.network, leaves, weights, z, g, scale)
                torch._foreach_add_(total, gradients)
                _, gradients = _output_and_gradients(subject.network, leaves, others, z, f, scale)
                torch._foreach_add_(total, gradients)
        torch._foreach_abs_(total)
        return dict(zip(leaves, total, strict=True))


def _masked(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return θ ⊙ m."""
    return {name: weights[name].to(mask.device) * mask for name, mask in masks.items()}


@torch.no_grad()
def _output(network: nn.Module, masks: dict[str, Tensor], weights: dict[str, Tensor], z: Tensor) -> Tensor:
    """Return f(z; θ ⊙ m)."""
    outputs: Tensor = substituted(network, _masked(weights, masks), methodcaller("__call__", z))
    return outputs


def _output_and_gradients(
    network: nn.Module, masks: dict[str, Tensor], weights: dict[str, Tensor], z: Tensor, other: Tensor, scale: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return f(z; θ ⊙ m), and the gradient of scale/2 · ‖f − other‖² with respect to the m in f, not in `other`."""

    def evaluate(network: nn.Module) -> tuple[Tensor, tuple[Tensor, ...]]:
        f = network(z)
        change = scale * (f.detach() - other)
        return f.detach(), torch.autograd.grad(f, list(masks.values()), change, materialize_grads=True)

    return substituted(network, _masked(weights, masks), evaluate)
