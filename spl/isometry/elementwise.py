"""Functions of each element: modules that are one, by a trial on numbers, and functions as modules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Elementwise(nn.Module):
    """A function of each element as a module.

    Args:
        function: the function.

    Example:
        >>> import torch
        >>> from spl.isometry.elementwise import Elementwise
        >>> Elementwise(torch.sin)(torch.zeros(2))
        tensor([0., 0.])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element."""
        return self.function(x)


@torch.no_grad()
def is_activation(module: nn.Module) -> bool:
    """Return whether a module is a function of each element alone, and not an affine one.

    The module is tried on numbers: where one of them changes, only its result may change, and in another order the
    results must be the same. So identity, dropout, softmax and normalization are no activations.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.elementwise import is_activation
        >>> [is_activation(module) for module in (nn.Softsign(), nn.Sequential(nn.Softplus(), nn.Tanh()))]
        [True, True]
        >>> [is_activation(module) for module in (nn.Identity(), nn.Softmax(-1), nn.LayerNorm(4), nn.Linear(4, 4))]
        [False, False, False, False]
    """
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    y = _tried(module, x)
    if y is None or not torch.allclose(y, _tried(module, x.flip(0), x).flip(0), rtol=1e-6):
        return False
    for place in (3, 16, 29):
        other = x.clone()
        other[place] += 0.3
        same = _tried(module, other, x).isclose(y, rtol=1e-6)
        same[place] = True
        if not same.all():
            return False
    bends: Tensor = y[2:] - 2 * y[1:-1] + y[:-2]
    return bool(bends.abs().max() > 1e-5 * y.abs().max())


def _tried(module: nn.Module, x: Tensor, otherwise: Tensor | None = None) -> Any:
    """Return the result of a module if it is of the shape of `x` and finite, and `otherwise` if not."""
    try:
        y = module.forward(x.clone())  # the hooks of the user see nothing of it
    except Exception:
        return otherwise
    is_like = isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point() and bool(y.isfinite().all())
    return y.double() if is_like else otherwise


@torch.no_grad()
def ignores_scale(module: nn.Module, shape: torch.Size) -> bool:
    """Return whether a module gives nearly the same for twice its input, as normalization by the input's own size.

    Args:
        module: the module.
        shape: the shape of its input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.elementwise import ignores_scale
        >>> [ignores_scale(module, torch.Size([2, 8])) for module in (nn.LayerNorm(8), nn.ReLU())]
        [True, False]
    """
    parameter = next(module.parameters(), None)
    device = None if parameter is None else parameter.device
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device)
    y, twice = _tried(module, x), _tried(module, 2 * x)
    return y is not None and twice is not None and bool(y.any()) and torch.allclose(y, twice, rtol=1e-2, atol=1e-2)
