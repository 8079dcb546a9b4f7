"""Fully connected networks: MLP and LeNet-300-100."""

from collections import OrderedDict
from inspect import signature
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from spl.errors import InputError
from spl.networks.sizes import check_depth, check_sizes

Activation = Literal["linear", "tanh", "relu", "leaky_relu", "selu"]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
}


def _activation_class(name: str) -> type[nn.Module]:
    """Return the class of an activation by its name here, or by its name or path in torch.nn."""
    own: dict[str, type[nn.Module]] = {str(key): kind for key, kind in _ACTIVATIONS.items()}
    if name in own:
        return own[name]
    kind = getattr(nn, name.removeprefix("torch.nn."), None)
    if not isinstance(kind, type) or kind.__module__ != nn.ReLU.__module__ or _needs_arguments(kind):
        known = {other.lower(): other for other in nn.modules.activation.__all__}
        near = known.get(name.rpartition(".")[2].lower().replace("_", ""))
        raise InputError(
            f"activation must be one of {', '.join(own)}, or an activation of torch.nn that needs no arguments, such "
            f"as GELU, got {name!r}." + (f" Did you mean {near}?" if near else "")
        )
    return kind


def _needs_arguments(kind: type) -> bool:
    return any(p.default is p.empty for p in signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)


def fully_connected(sizes: list[int], activation: Activation | str) -> OrderedDict[str, nn.Module]:
    """Return Linear layers fc1, fc2, … between `sizes` units, with an activation after each but the last.

    Example:
        >>> from spl.networks.fully_connected import fully_connected
        >>> list(fully_connected([784, 100, 10], "relu"))
        ['fc1', 'act1', 'fc2']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        if i < len(sizes) - 1:
            layers[f"act{i}"] = _activation_class(activation)()
    return layers


class FullyConnected(nn.Sequential):
    """A fully connected network: Linear layers on flattened inputs, [N, ...] → [N, out_features].

    Args:
        sizes: numbers of units from the input to the output, at least two.
        activation: the activation between the layers: linear (none), tanh, relu, leaky_relu, selu, or a class of
            torch.nn by its name (GELU) or path (torch.nn.GELU).

    Example:
        >>> import torch
        >>> from spl.networks import FullyConnected
        >>> network = FullyConnected([784, 300, 10], activation="relu")
        >>> network(torch.randn(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, sizes: list[int], activation: Activation | str) -> None:
        _activation_class(activation)
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(f"A network needs two sizes or more, each at least 1, got {sizes}.")
        super().__init__(fully_connected(sizes, activation))
        self.in_features = sizes[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, out_features] for inputs [N, ...] with in_features numbers each."""
        flat = x.flatten(1)
        if flat.shape[1] != self.in_features:
            raise InputError(
                f"{type(self).__name__} takes {self.in_features} numbers per example, got inputs of shape "
                f"{tuple(x.shape)}, {flat.shape[1]} each: set in_features={flat.shape[1]}."
            )
        logits: Tensor = super().forward(flat)  # type: ignore[no-untyped-call]
        return logits


class MLP(FullyConnected):
    """A multi-layer perceptron with hidden layers of equal width. MLP-7 of the paper has 130,010 parameters.

    Args:
        depth: number of weight layers, K of MLP-K.
        width: units in each hidden layer.
        activation: linear (none), tanh, relu, leaky_relu, selu, or a class of torch.nn by its name (GELU) or path
            (torch.nn.GELU).
        in_features: numbers per example: 784 for 28×28 grey images, 3072 for 32×32 in colour.
        out_features: number of classes.

    Example:
        >>> import torch
        >>> from spl.networks import MLP
        >>> network = MLP(depth=7, width=100, activation="tanh")
        >>> sum(parameter.numel() for parameter in network.parameters())
        130010
        >>> network(torch.randn(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        depth: int = 7,
        width: int = 100,
        activation: Activation | str = "tanh",
        in_features: int = 784,
        out_features: int = 10,
    ) -> None:
        check_sizes(depth=depth)
        check_depth(depth, depth=depth)
        super().__init__([in_features] + [width] * (depth - 1) + [out_features], activation)


class LeNet300(FullyConnected):
    """The network LeNet-300-100, with hidden layers of 300 and 100 units. It has 266,610 parameters on MNIST.

    Args:
        activation: linear (none), tanh, relu, leaky_relu, selu, or a class of torch.nn by its name (GELU) or path
            (torch.nn.GELU).
        in_features: numbers per example: 784 for 28×28 grey images, 3072 for 32×32 in colour.
        out_features: number of classes.

    Example:
        >>> from spl.networks import LeNet300
        >>> [tuple(parameter.shape) for name, parameter in LeNet300().named_parameters() if name.endswith("weight")]
        [(300, 784), (100, 300), (10, 100)]
    """

    def __init__(self, activation: Activation | str = "tanh", in_features: int = 784, out_features: int = 10) -> None:
        super().__init__([in_features, 300, 100, out_features], activation)
