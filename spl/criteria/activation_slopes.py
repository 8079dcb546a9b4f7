"""The slopes of a network's activations at its data, and runs of the network with given slopes in their place."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NAMES = [
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish",
    "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold",
]  # fmt: skip
_FUNCTIONS = {
    function
    for name in _NAMES
    for home in (F, torch, Tensor)
    for function in (getattr(home, name, None), getattr(home, f"{name}_", None))
    if function is not None
}
"""What modules and networks call for an activation that acts on each element alone."""


class Activations(TorchFunctionMode):
    """A mode in which `handle` computes the activations of a network, whether modules or functions call for them.

    Args:
        handle: a function of the input of an activation and of the activation, which returns its output.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.activation_slopes import Activations
        >>> with Activations(lambda x, activation: 2 * activation(x)):
        ...     print(nn.ReLU()(torch.tensor([-2.0, 3.0])))
        tensor([0., 6.])
    """

    def __init__(self, handle: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> None:
        super().__init__()
        self._handle = handle

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or the handle in its place."""
        options = dict(kwargs or {})
        if func not in _FUNCTIONS:
            return func(*args, **options)
        x, rest = (args[0], args[1:]) if args else (options.pop("input"), ())
        return self._handle(x, lambda h: func(h, *rest, **options))


def activation_slopes(network: Callable[[Tensor], object], inputs: Tensor) -> list[Tensor]:
    """Return the slope of each activation at its input, in the order in which the network calls them.

    Args:
        network: the network; its parameters need no gradients.
        inputs: Tensor [N, ...].

    Returns:
        One tensor in the shape of its input for each call. The slopes of a ReLU are 0 and 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.activation_slopes import activation_slopes
        >>> activation_slopes(nn.LeakyReLU(0.1), torch.tensor([[-2.0, 3.0]]))
        [tensor([[0.1000, 1.0000]])]
    """
    slopes: list[Tensor] = []

    def note(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = activation(leaf.clone())  # it may write into its input
            (slope,) = torch.autograd.grad(y.sum(), leaf)
        slopes.append(slope)
        return y.detach()

    with torch.no_grad(), Activations(note):
        network(inputs)
    return slopes


def with_slopes(network: Callable[[Tensor], Tensor], inputs: Tensor, slopes: Iterable[Tensor]) -> Tensor:
    """Return what the network computes where each activation is a product with slopes, in the order of the calls.

    Args:
        network: the network.
        inputs: Tensor [N, ...].
        slopes: the slopes, such as those of `activation_slopes`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria.activation_slopes import with_slopes
        >>> with_slopes(nn.ReLU(), torch.tensor([-2.0, 3.0]), [torch.tensor([0.5, 0.0])])
        tensor([-1.,  0.])
    """
    given = iter(slopes)

    def multiply(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return x * next(given).to(x.dtype)

    with Activations(multiply):
        return network(inputs)
