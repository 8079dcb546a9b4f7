"""PX: path exclusion, by a bound on the trace of the neural tangent kernel."""

import math
from collections.abc import Mapping
from functools import partial
from operator import methodcaller

import torch
from torch import Tensor, nn

from spl.criteria.activation_slopes import activation_slopes, with_slopes
from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.objective import first_tensor, floating_inputs
from spl.criteria.schedules import Exponential
from spl.errors import InputError
from spl.functional.layers import ACTIVATIONS
from spl.functional.linearized import absolute_state, forwards, linear_forwards, one_example
from spl.functional.substitution import substituted


class PX(Criterion):
    """Path exclusion: `w² ⊙ ∂R/∂(w²)` with `R = Σ_x Σ_k g_k(x) h_k`, a bound on the tangent kernel, in 100 rounds.

    Iurada et al. 2024 (arXiv:2406.01820). A path leads from an input over one weight of each layer to an output k. h_k
    sums the squared weights of all paths to k: it is the network on an input of ones, with squared weights and without
    biases and activations. g_k(x) sums the squared inputs of those paths to k that the data x leave open: it is the
    network on x², with weights of 1 and with every activation replaced by its squared slope at x, which is 0 or 1 for a
    ReLU. ∂R/∂(w²) is at least `Σ_x Σ_k (∂f_k(x)/∂w)²` in a network of ReLUs without biases, by the inequality of Cauchy
    and Schwarz for the sum over paths. So its sum over the weights bounds the trace of the neural tangent kernel.

    Scores are never negative. What flows into a hidden unit flows out of it, as in `SynFlow`. So in a chain of layers,
    with rounds of exponentially falling density, no layer loses its last weight before the others have lost theirs. 100
    is the number of rounds in the authors' own examples. BatchNorm scales by `|γ|/√(σ² + ε)` in g and h, with σ² as
    recorded. Pooling acts on the numbers in g and h. Activations other than ReLU have to be modules, as for `SynFlow`.

    The authors' code differs from this formula in three points. It lets BatchNorm normalize g and h by the statistics
    of the batch. It does not square the weights of layers that are called fc. It counts a bias as the start of a path.
    Without these three its masks are equal.

    It reads the inputs of all batches in each round, and no labels. The authors take a few examples of each class.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import PX
        >>> from spl.criteria.schedules import Exponential
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.zeros(16)
        >>> masks = prune(network, PX(), sparsity=0.9, batches=[batch], schedule=Exponential(10))
        >>> {name: mask.sum().item() for name, mask in masks.items()}
        {'0.weight': 3, '2.weight': 3}
    """

    needs_data = True
    reads = "inputs"
    schedule = Exponential(100)

    def __call__(self, subject: Subject) -> Scores:
        """Return non-negative scores, 0 where a weight is pruned and for biases.

        Raises:
            InputError: the inputs are not floating-point, or there are more paths than float64 can count.
        """
        paths = subject.memo.get(self)
        if paths is None or paths.network is not subject.network:
            paths = subject.memo[self] = _Paths(subject)
        open_paths = paths.open_paths(subject)
        parameters = {name: p.detach().abs().double().square() for name, p in paths.weights.items()}
        squares = {name: parameters[name].requires_grad_() for name in subject.weights if name in parameters}

        def backpropagate(linear: nn.Module) -> tuple[Tensor, ...]:
            total = (open_paths * linear(paths.example)).sum()
            return torch.autograd.grad(total, list(squares.values()), materialize_grads=True)

        with torch.enable_grad(), forwards(paths.forwards):
            gradients = substituted(paths.network, paths.state | parameters, backpropagate)
        scores = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in subject.weights.items()}
        for (name, square), gradient in zip(squares.items(), gradients, strict=True):
            scores[name] = gradient * square.detach()
        return scores


class _Paths:
    """The linear networks that have the paths of a network.

    Args:
        subject: the network, with batches that show the shape of an example.
    """

    def __init__(self, subject: Subject) -> None:
        self.network = subject.network
        self.example = one_example(floating_inputs(subject.first_batch, "PX"))
        self.weights = {name: p for name, p in self.network.named_parameters() if not _is_bias(name)}
        self.state = {n: torch.zeros_like(t) if _is_bias(n) else t for n, t in absolute_state(self.network).items()}
        self.buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self.forwards = linear_forwards(self.network)

    @torch.no_grad()
    def open_paths(self, subject: Subject) -> Tensor:
        """Return Σ_x g_k(x) over the examples of all processes, as a share of the largest.

        It has the precision of float32, so that it does not depend on the order in which the float64 sums were added.
        """
        kept: Mapping[str, Tensor] = subject.masks or {}
        ones = {
            name: kept[name].to(p.device, torch.float64) if name in kept else torch.ones_like(p, dtype=torch.float64)
            for name, p in self.weights.items()
        }
        state = self.state | ones
        with forwards(self.forwards):
            total = torch.zeros_like(substituted(self.network, state, methodcaller("__call__", self.example)))
        # activations keep their own forward, which calls a function that takes the slope instead
        sloping = {m: f for m, f in self.forwards.items() if not isinstance(m, ACTIVATIONS)}
        for batch in subject.own_batches:
            inputs = first_tensor(batch)
            slopes = [slope.double().square() for slope in self._slopes(inputs)]
            work = partial(with_slopes, inputs=inputs.double().square(), slopes=slopes)
            with forwards(sloping):
                outputs = substituted(self.network, state, work)
            total += outputs.sum(0, keepdim=True)
        subject.processes.add_up_([total])
        most = float(total.max())
        if not math.isfinite(most):
            raise InputError(
                "PX counts the paths through the network, and there are more than float64 can count, or an input is "
                "not finite. Use SynFlow for a network of so many layers."
            )
        return (total / most).float().double() if most > 0 else total

    def _slopes(self, inputs: Tensor) -> list[Tensor]:
        """Return the slopes of the activations, without changing the running statistics of the network."""
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        return substituted(self.network, buffers, partial(activation_slopes, inputs=inputs))


def _is_bias(name: str) -> bool:
    return "bias" in name.rpartition(".")[2]
