"""What a network costs: parameters, multiply-accumulates, bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spl.functional.layers import WEIGHTED
from spl.functional.undisturbed import undisturbed
from spl.masks.masks import Masks


@dataclass(frozen=True)
class Cost:
    """Of a layer or a network.

    Attributes:
        parameters: weights and biases, BatchNorm's included.
        macs: multiply-accumulates with weights for one example, as `weight_macs` counts them.
        bytes: of parameters and buffers.
    """

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class NetworkCost:
    """Of a network.

    Attributes:
        total: all of it.
        layers: Linear layers, convolutions and attention, by name in the order of execution.
    """

    total: Cost
    layers: dict[str, Cost]


def pruned_copy(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy in evaluation mode whose pruned weights are 0.

    Args:
        network: left as it was found.
        masks: by the names of its parameters.

    Raises:
        InputError: a mask does not fit.
    """
    copied = deepcopy(network).eval()
    masks.apply_(dict(copied.named_parameters()))
    return copied


def weight_macs(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiply-accumulates with each weight tensor for one example, by parameter name, in the order of use.

    Those of Linear layers, of convolutions and of the projections of attention; biases, BatchNorm and products of
    activations are left out.

    Args:
        network: left as it was found.
        example: one batch of inputs.
    """
    names: dict[nn.Module, str] = {
        module: f"{name}." if name else ""
        for name, module in network.named_modules()
        if isinstance(module, (*WEIGHTED, nn.MultiheadAttention))
    }
    macs: Counter[str] = Counter()

    def count(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = [*args, *kwargs.values()]
        if isinstance(layer, nn.MultiheadAttention):
            products = _attention_macs(layer, given)
        else:
            products = _layer_macs(layer, given, output)
        for weight, number in products.items():
            macs[names[layer] + weight] += number // len(example)

    with undisturbed(network), torch.no_grad(), _forward_hooks(names, count):
        network(example)
    return dict(macs)


def network_cost(network: nn.Module, example: Tensor) -> NetworkCost:
    """Of a network that is left as it was found, for one example of a batch."""
    macs: Counter[str] = Counter()
    for weight, number in weight_macs(network, example).items():
        macs[weight.rpartition(".")[0]] += number
    layers = {}
    for name, number in macs.items():
        module = network.get_submodule(name)
        layers[name] = _cost(module.parameters(recurse=False), module.buffers(recurse=False), number)
    return NetworkCost(_cost(network.parameters(), network.buffers(), macs.total()), layers)


def _cost(parameters: Iterable[Tensor], buffers: Iterable[Tensor], macs: int) -> Cost:
    weights = list(parameters)
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *buffers])
    return Cost(sum(weight.numel() for weight in weights), macs, size)


def _layer_macs(layer: nn.Module, given: list[Any], output: Tensor) -> dict[str, int]:
    """Of a batch, by a layer that uses its whole weight at each position of its outputs; transposed, of its inputs."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    transposed = getattr(layer, "transposed", False)
    channels = getattr(layer, "in_channels" if transposed else "out_channels", getattr(layer, "out_features", 0))
    return {"weight": weight.numel() * ((given[0] if transposed else output).numel() // max(channels, 1))}


def _attention_macs(attention: nn.MultiheadAttention, given: list[Any]) -> dict[str, int]:
    """Of a batch, by projections of which it calls none as a module."""
    queries, keys, values = (tensor.numel() // tensor.shape[-1] for tensor in given[:3])
    weights, square = dict(attention.named_parameters(recurse=False)), attention.embed_dim**2
    if "in_proj_weight" in weights:
        inwards = {"in_proj_weight": square * (queries + keys + values)}
    else:
        tokens = {"q_proj_weight": queries, "k_proj_weight": keys, "v_proj_weight": values}
        inwards = {name: weights[name].numel() * number for name, number in tokens.items()}
    return inwards | {"out_proj.weight": square * queries}


@contextmanager
def _forward_hooks(layers: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
