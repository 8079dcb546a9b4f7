"""The search for weights on paths from the input to the output; kept weights that lie on none are useless."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spl.functional.linearized import path_gradients
from spl.functional.pooling import averaging
from spl.functional.undisturbed import undisturbed


@dataclass(frozen=True)
class Paths:
    """The weights, inputs and outputs that lie on an input-output path of kept weights.

    Attributes:
        weights: bool tensors in the shapes of the masks, on the network's device, by the name of the weight.
        inputs: bool tensor in the shape of one example.
        outputs: bool tensor [C].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis import find_paths
        >>> network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
        >>> masks = {"0.weight": torch.tensor([[True, False, True], [False, False, False]])}
        >>> paths = find_paths(network, masks, torch.zeros(1, 3))
        >>> paths.inputs.tolist(), paths.outputs.tolist()
        ([True, False, True], [True, True])
    """

    weights: dict[str, Tensor]
    inputs: Tensor
    outputs: Tensor


def find_paths(network: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor) -> Paths:
    """Find the kept weights, the inputs and the outputs that lie on an input-output path.

    The share of weights on no such path is the effective sparsity of Vysogorets & Kempe 2021. Set every kept weight to
    1, and let R be the sum over all paths of the products of their weights. A weight w lies on a path if and only if
    ∂R/∂w > 0; see `path_gradients`. The output of every layer, and every gradient that comes back to it, is replaced
    by 1 if it is positive and 0 otherwise, so that networks of any depth neither over- nor underflow. Biases carry no
    paths, and activations cut none. Max pooling passes on one of its inputs, but counts as an average over all of them
    (unless it is dilated or returns indices).

    Args:
        network: a network that maps [N, ...] to [N, C]. It is left as it was found.
        masks: bool tensors, by the name of a layer's weight; other parameters are kept.
        inputs: Tensor [N, ...]; only its shape counts.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.diagnosis import find_paths
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
        >>> masks = {
        ...     "0.weight": torch.tensor([[True, True], [False, False]]),
        ...     "2.weight": torch.tensor([[True, True], [False, True]]),
        ... }
        >>> paths = find_paths(network, masks, torch.zeros(1, 2))
        >>> paths.weights["2.weight"].tolist()
        [[True, False], [False, False]]
    """
    gated = _GatedNetwork(network, inputs[:1])
    weights = {name: torch.ones_like(p) for name, p in gated.named_parameters() if not name.endswith("bias")}
    weights |= {f"network.{name}": mask.to(weights[f"network.{name}"]) for name, mask in masks.items()}
    layers = {network.get_submodule(name.rpartition(".")[0]) for name in masks}
    outputs: list[Tensor] = []  # not an attribute of the network, all of which are restored
    gated.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    with undisturbed(network), _counting_paths(network, layers):
        positive = {name: gradient > 0 for name, gradient in path_gradients(gated, weights, inputs).items()}
    on_paths = {name: positive[f"network.{name}"] & mask.to(gated.gate.device) for name, mask in masks.items()}
    return Paths(on_paths, positive["gate"], outputs[-1][0] > 0)


class _GatedNetwork(nn.Module):
    """A network that multiplies its input by weights (the gate)."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self.gate = nn.Parameter(torch.ones_like(example[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        output: Tensor = self.network(x * self.gate)
        return output


class _IsPositive(torch.autograd.Function):
    """The map of numbers to 1 if they are positive and 0 otherwise, which also applies to gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient > 0).to(gradient)


@contextmanager
def _counting_paths(network: nn.Module, layers: set[nn.Module]) -> Iterator[None]:
    """Let the outputs and gradients of `layers` be 1 or 0, and replace max pooling by average pooling."""
    hooks = [layer.register_forward_hook(lambda _, __, output: _IsPositive.apply(output)) for layer in layers]
    hooks += [
        module.register_forward_hook(lambda _, inputs, __, average=average: average(inputs[0]))
        for module in network.modules()
        if (average := averaging(module)) is not None
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
