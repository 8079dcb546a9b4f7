"""What a network costs: parameters, multiply-accumulates, bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spl.layers import WEIGHTED
from spl.modes import undisturbed


@dataclass(frozen=True)
class Cost:
    """Of a layer or a network.

    Attributes:
        parameters: weights and biases, BatchNorm's included.
        macs: multiply-accumulates of Linear layers and convolutions for one example, biases left out.
        bytes: of parameters and buffers.
    """

    parameters: int
    macs: int
    bytes: int


def layer_positions(network: nn.Module, example: Tensor) -> dict[str, int]:
    """How often one example uses each weight of a Linear layer or convolution, by module name, in order of use.

    Args:
        network: left as it was found.
        example: one batch of inputs.
    """
    names: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, WEIGHTED)
    }
    positions: Counter[str] = Counter()

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        transposed = getattr(layer, "transposed", False)  # there each position of the inputs is used
        channels = getattr(layer, "in_channels" if transposed else "out_channels", getattr(layer, "out_features", 0))
        positions[names[layer]] += (inputs[0] if transposed else output).numel() // max(channels, 1) // len(example)

    with undisturbed(network), torch.no_grad(), _hooked(names, count):
        network(example)
    return dict(positions)


def layer_cost(layer: nn.Module, positions: int) -> Cost:
    """Of one layer, whose weights are used so many times."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return Cost(_parameters(layer), weight.numel() * positions, _bytes(layer))


def network_cost(network: nn.Module, positions: Mapping[str, int]) -> Cost:
    """Of a network; of its layers, `layer_positions` says how often each is used."""
    layers = [layer_cost(network.get_submodule(name), count) for name, count in positions.items()]
    return Cost(_parameters(network), sum(cost.macs for cost in layers), _bytes(network))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
