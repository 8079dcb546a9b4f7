"""Mean-field theory at initialization: the gain at which signals neither grow nor shrink from layer to layer."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spl.functional.layers import ACTIVATIONS, is_weighted

_SMALL_VARIANCE, _LARGE_VARIANCE = 1 / 40, 1e4
_RELU_MEAN_SQUARE_SLOPE = 1 / 2


def critical_gain(activation: nn.Module, variance: float = _SMALL_VARIANCE) -> float:
    """Return σ_w with σ_w² E[φ′(√q z)²] = 1, z ~ N(0, 1): gradients keep their mean square through φ and the layer.

    Poole et al. 2016, Schoenholz et al. 2017. For ReLU it is √2 and for the identity 1, at any q. For tanh it is
    1.024 at q = 1/40, the critical point (σ_w², σ_b²) = (1.05, 2e-5) at which Xiao et al. 2018 start.

    Args:
        activation: φ, an elementwise activation.
        variance: q, the variance of the pre-activations.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.mean_field import critical_gain
        >>> critical_gain(nn.ReLU()), critical_gain(nn.Tanh()), critical_gain(nn.GELU())
        (1.41, 1.02, 1.94)
    """
    return float(1 / np.sqrt(_mean_square_slope(activation, variance)))


def bounded_gain(activation: nn.Module) -> float:
    """Return the critical gain at q = 1/40, or the largest gain at which signals cannot explode if that is smaller.

    An activation that is flat at 0 and steep further out (GELU, SiLU, Mish, Softplus, Hardshrink, …) has no gain that
    keeps signals of all sizes. The gain that keeps small signals, 1.94 for GELU and 25 for Hardshrink, makes large
    signals grow in every layer. So two limits hold:

    - σ_w² E[φ′(√q z)²] must not exceed 1 at q = 10⁴ either. If φ grows as a·x on one side and as b·x on the other,
      then σ_w² (a² + b²)/2 ≤ 1, and a layer cannot make large signals larger.
    - σ_w is at most √2, the gain of ReLU and the largest that keeps signals of all sizes. A larger gain drives an
      activation of small slope (Sigmoid: 4) into saturation.

    Small signals may shrink. ReLU, tanh, the identity, leaky ReLU and ELU have their critical gain, which is below
    both limits.

    Args:
        activation: φ, an elementwise activation.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.mean_field import bounded_gain
        >>> bounded_gain(nn.ReLU()), bounded_gain(nn.Tanh()), bounded_gain(nn.GELU())
        (1.41, 1.02, 1.41)
    """
    slopes = [_mean_square_slope(activation, variance) for variance in (_SMALL_VARIANCE, _LARGE_VARIANCE)]
    return float(1 / np.sqrt(max(*slopes, _RELU_MEAN_SQUARE_SLOPE)))


def _mean_square_slope(activation: nn.Module, variance: float) -> float:
    """Return E[φ′(√q z)²]."""
    nodes, weights = _gauss_hermite()
    z = torch.tensor(nodes * math.sqrt(variance), requires_grad=True)
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(activation(1.0 * z).sum(), z)  # no leaf: the activation may work in place
    return float(np.average(slopes.numpy() ** 2, weights=weights))


@cache
def _gauss_hermite() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return nodes and weights for E[f(z)], z ~ N(0, 1); their number is even, so that none is at the kink of ReLU."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return nodes, weights


def layer_gains(network: nn.Module) -> dict[str, float]:
    """Return the gain of every Linear and convolutional weight, by name: `bounded_gain` of the activation after it.

    That activation is the first one between the layer and the next layer, in the order in which the network lists its
    modules. Without an activation the gain is 1.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.mean_field import layer_gains
        >>> layer_gains(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
        {'0.weight': 1.41, '2.weight': 1.0}
    """
    gains: dict[str, float] = {}
    last = None
    for name, module in network.named_modules():
        if is_weighted(module):
            last = f"{name}.weight" if name else "weight"
            gains[last] = 1.0
        elif isinstance(module, ACTIVATIONS) and last is not None:
            gains[last] = bounded_gain(module)
            last = None
    return gains
