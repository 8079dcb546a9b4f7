"""Counts of the paths from the inputs of a network to its outputs, while masks are decided layer by layer."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from spl.errors import InputError
from spl.functional.linearized import absolute_state, forwards, linear_forwards, one_example
from spl.functional.pooling import averaging
from spl.functional.substitution import substituted


class Paths:
    """The paths from the inputs of a network to its outputs, counted while the masks of its layers are decided.

    Every weight that is not masked counts as 1. Activations, normalization layers and biases are left out. Max pooling
    passes on one of its inputs, but counts as an average over all of them (unless it is dilated or returns indices).

    Args:
        network: the network, which is left as it was found.
        names: the names of the weights that have masks.
        inputs: Tensor [N, ...]; only its shape counts.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.path_counts import Paths
        >>> paths = Paths(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["0.weight", "1.weight"], torch.zeros(4, 2))
        >>> masks = paths.decide(lambda name, counts: counts.expand(2 - int(name[0]), 2) > 0)
        >>> paths.through(masks)["1.weight"]
        tensor([[2., 2.]], dtype=torch.float64)
    """

    def __init__(self, network: nn.Module, names: Iterable[str], inputs: Tensor) -> None:
        parameters = dict(network.named_parameters())
        self.network = network
        self.ones = one_example(inputs)
        self.names = {id(parameters[name]): name for name in names}
        self.linear: dict[nn.Module, Callable[..., Tensor]] = dict.fromkeys(linear_forwards(network), _unchanged)
        self.linear |= {m: average for m in network.modules() if (average := averaging(m)) is not None}
        weights = {n: torch.ones_like(p, dtype=torch.float64) for n, p in parameters.items() if not n.endswith("bias")}
        self.state = absolute_state(network) | weights

    def decide(self, mask: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the masks of the layers, by the name of the weight, as the network calls them one after the other.

        Args:
            mask: a function of the name of a weight [out, in, ...] and of the number of paths to each of its inputs,
                summed over positions, that returns the mask.
        """
        masks: dict[str, Tensor] = {}

        def forward(module: nn.Module, name: str, x: Tensor) -> Tensor:
            if name not in masks:
                masks[name] = mask(name, _sum_per_input(module, x).cpu())
                state[name].copy_(masks[name])
            output: Tensor = type(module).forward(module, x)
            return output

        owners = {m: self.names[id(w)] for m in self.network.modules() if id(w := _weight(m)) in self.names}
        state = self.state | {name: torch.ones_like(self.state[name]) for name in self.names.values()}
        deciding = {module: partial(forward, module, name) for module, name in owners.items()}
        with torch.no_grad(), forwards(self.linear | deciding):
            substituted(self.network, state, lambda counting: counting(self.ones))
        return masks

    def through(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the number of paths through each weight, and for a pruned one the number if it were kept.

        Raises:
            InputError: the numbers overflow.
        """
        leaves = {name: mask.to(self.state[name]).requires_grad_() for name, mask in masks.items()}

        def gradients(counting: nn.Module) -> tuple[Tensor, ...]:
            return torch.autograd.grad(counting(self.ones).sum(), list(leaves.values()), materialize_grads=True)

        with torch.enable_grad(), forwards(self.linear):
            found = dict(zip(leaves, substituted(self.network, self.state | leaves, gradients), strict=True))
        if not all(bool(number.isfinite().all()) for number in found.values()):
            raise InputError(
                "NPB: the number of paths overflows float64, because the network is too deep: take SynFlow."
            )
        return {name: number.cpu() for name, number in found.items()}


def _unchanged(x: Tensor, *_: object) -> Tensor:
    return x


def _weight(module: nn.Module) -> Tensor | None:
    weight: Tensor | None = getattr(module, "weight", None)
    return weight


def _sum_per_input(module: nn.Module, x: Tensor) -> Tensor:
    """Return the sum of the signals of each input of a layer over examples and positions."""
    axis = x.ndim - 1 if isinstance(module, nn.Linear) else 1
    return x.movedim(axis, 0).flatten(1).sum(1)
