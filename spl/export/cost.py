"""The cost of a network: parameters, multiply-accumulates (MACs) and bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from spl.functional.held_objects import detached_copy
from spl.functional.layers import RECURRENT, WEIGHTS, is_weighted, prunable_names
from spl.functional.self_attention import SelfAttention
from spl.functional.undisturbed import undisturbed
from spl.functional.wrappers import unwrapped
from spl.masks.masks import Masks

_PRODUCTS = {F.linear, F.conv1d, F.conv2d, F.conv3d}


@dataclass(frozen=True)
class Cost:
    """The cost of a layer or of a network.

    Attributes:
        parameters: number of weights and biases, including those of BatchNorm.
        macs: number of multiply-accumulates with weights for one example, as counted by `weight_macs`.
        bytes: size of the parameters and buffers.

    Example:
        >>> import torch
        >>> from spl.export.cost import network_cost
        >>> network_cost(torch.nn.Linear(3, 2), torch.randn(1, 3)).total
        Cost(parameters=8, macs=6, bytes=32)
    """

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class NetworkCost:
    """The cost of a network and of its layers.

    Attributes:
        total: the cost of the whole network.
        layers: the cost of each Linear layer, convolution and attention, by name, in the order of execution.

    Example:
        >>> import torch
        >>> from spl.export.cost import network_cost
        >>> network_cost(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), torch.randn(1, 1, 5, 5)).layers
        {'0': Cost(parameters=20, macs=162, bytes=80)}
    """

    total: Cost
    layers: dict[str, Cost]


def pruned_copy(network: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of the network in evaluation mode, with pruned weights set to 0.

    Args:
        network: the network; it is not changed. Of a wrapped one (`torch.compile`, Fabric) the inner network is copied.
        masks: the masks, by parameter name.

    Raises:
        InputError: a mask does not fit the network.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export.cost import pruned_copy
        >>> layer = torch.nn.Linear(2, 1)
        >>> pruned_copy(layer, Masks({"weight": torch.tensor([[True, False]])})).weight[0, 1].item()
        0.0
    """
    copied = detached_copy(unwrapped(network)).eval()
    masks.apply_(dict(copied.named_parameters()))
    return copied


def weight_macs(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Count the multiply-accumulates with each weight tensor for one example.

    Linear layers, convolutions, the projections of attention and recurrent layers count, and functions (`F.linear`,
    `F.conv2d`) that are called with a weight of the network, as in torchvision's Swin. Biases, BatchNorm and products
    of activations do not.

    Args:
        network: the network; it is not changed.
        example: one batch of inputs.

    Returns:
        The counts by parameter name, in the order of use.

    Example:
        >>> import torch
        >>> from spl.export.cost import weight_macs
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(18, 4))
        >>> weight_macs(network, torch.randn(8, 1, 5, 5))
        {'0.weight': 162, '2.weight': 72}
    """
    names: dict[nn.Module, str] = {
        module: f"{name}." if name else ""
        for name, module in network.named_modules()
        if isinstance(module, (*RECURRENT, nn.MultiheadAttention, SelfAttention)) or is_weighted(module)
    }
    macs: Counter[str] = Counter()

    def count(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = [*args, *kwargs.values()]
        if isinstance(layer, nn.MultiheadAttention):
            products = _attention_macs(layer, given)
        elif isinstance(layer, SelfAttention):
            products = {"in_proj_weight": layer.in_proj_weight.numel() * (given[0].numel() // given[0].shape[-1])}
        elif isinstance(layer, RECURRENT):
            products = _recurrent_macs(layer, given[0])
        else:
            products = _layer_macs(layer, given, output)
        for weight, number in products.items():
            macs[names[layer] + weight] += number // len(example)

    functions = _FunctionsWithWeights({id(weight): name for name, weight in network.named_parameters()})
    with undisturbed(network), torch.no_grad(), _forward_hooks(names, count, functions), functions:
        network(example)
    macs.update({name: number // len(example) for name, number in functions.macs.items()})
    return dict(macs)


def network_cost(network: nn.Module, example: Tensor) -> NetworkCost:
    """Return the cost of a network and of its layers, for one example.

    Args:
        network: the network; it is not changed.
        example: one batch of inputs.

    Example:
        >>> import torch
        >>> from spl.export.cost import network_cost
        >>> from spl.networks import MLP
        >>> network_cost(MLP(depth=7, width=100), torch.randn(1, 784)).total
        Cost(parameters=130010, macs=129400, bytes=520040)
    """
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
    """Count the MACs of a layer for a batch.

    The whole weight is used at each position of the outputs, or of the inputs if the convolution is transposed.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    transposed = getattr(layer, "transposed", False)
    channels = getattr(
        layer, "in_channels" if transposed else "out_channels", getattr(layer, "out_features", getattr(layer, "nf", 0))
    )
    return {"weight": weight.numel() * ((given[0] if transposed else output).numel() // max(channels, 1))}


def _recurrent_macs(layer: nn.RNNBase | nn.RNNCellBase, inputs: Tensor | PackedSequence) -> dict[str, int]:
    """Count the MACs of a recurrent layer for a batch: each weight is used once in each step of each sequence."""
    steps = (inputs.data if isinstance(inputs, PackedSequence) else inputs).numel() // layer.input_size
    return {name: layer.get_parameter(name).numel() * steps for name in prunable_names(layer, WEIGHTS)}


def _attention_macs(attention: nn.MultiheadAttention, given: list[Any]) -> dict[str, int]:
    """Count the MACs of the projections of attention for a batch; it calls none of them as a module."""
    queries, keys, values = (tensor.numel() // tensor.shape[-1] for tensor in given[:3])
    weights, square = dict(attention.named_parameters(recurse=False)), attention.embed_dim**2
    if "in_proj_weight" in weights:
        inwards = {"in_proj_weight": square * (queries + keys + values)}
    else:
        tokens = {"q_proj_weight": queries, "k_proj_weight": keys, "v_proj_weight": values}
        inwards = {name: weights[name].numel() * number for name, number in tokens.items()}
    return inwards | {"out_proj.weight": square * queries}


class _FunctionsWithWeights(TorchFunctionMode):
    """A mode that counts the MACs of functions that are called with a weight of the network, outside of layers.

    Args:
        names: the names of the weights, by the id of each.

    Attributes:
        macs: the MACs with each weight for a batch.
        inside: how many layers are running, one inside the other; their MACs are counted otherwise.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.macs: Counter[str] = Counter()
        self.inside = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and count it."""
        output = func(*args, **(kwargs or {}))
        if not self.inside and func in _PRODUCTS:
            weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
            if (name := self.names.get(id(weight))) is not None:
                self.macs[name] += weight.numel() * (output.numel() // max(len(weight), 1))
        return output


@contextmanager
def _forward_hooks(layers: Iterable[nn.Module], hook: Any, functions: _FunctionsWithWeights) -> Iterator[None]:
    def enter(layer: nn.Module, args: Any) -> None:
        functions.inside += 1

    def leave(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        functions.inside -= 1
        hook(layer, args, kwargs, output)

    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [layer.register_forward_hook(leave, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
