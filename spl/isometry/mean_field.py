"""Mean-field theory at initialization: the gain at which signals neither grow nor shrink from layer to layer."""

import copy
import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

_SMALL_VARIANCE, _LARGE_VARIANCE = 1 / 40, 1e4
_RELU_MEAN_SQUARE_SLOPE = 1 / 2
_NEARLY_ONE = 1.2


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


def has_critical_gain(activation: nn.Module) -> bool:
    """Return whether a network with this activation can keep signals of all sizes, so that theory decides its gain.

    It can if the activation is homogeneous, φ(2z) = 2φ(z), as ReLU, leaky ReLU and the identity are, or if it changes
    small signals little and makes no signal larger, as tanh, ELU and SELU do: the critical gain is at most 1.2 and
    exceeds no limit of `bounded_gain`. GELU, SiLU, Mish, Softplus, Hardswish, ReLU6 and Sigmoid have no such gain.

    Args:
        activation: φ, an elementwise activation.

    Example:
        >>> from torch import nn
        >>> from spl.isometry.mean_field import has_critical_gain
        >>> [has_critical_gain(activation) for activation in (nn.ReLU(), nn.Tanh(), nn.GELU(), nn.ReLU6())]
        [True, True, False, False]
    """
    slopes = [_mean_square_slope(activation, variance) for variance in (_SMALL_VARIANCE, _LARGE_VARIANCE)]
    if slopes[0] < max(*slopes, _RELU_MEAN_SQUARE_SLOPE):
        return False
    return slopes[0] >= 1 / _NEARLY_ONE**2 or _is_homogeneous(activation)


@torch.no_grad()
def _is_homogeneous(activation: nn.Module) -> bool:
    z = torch.tensor(_gauss_hermite()[0])
    exact = _exact(activation)
    return torch.allclose(exact(2 * z), 2 * exact(1.0 * z))


def _exact(activation: nn.Module) -> nn.Module:
    """Return an activation that computes in float64 on the CPU, as its parameters must for that."""
    return (
        copy.deepcopy(activation).to("cpu", torch.float64) if any(True for _ in activation.parameters()) else activation
    )


def _mean_square_slope(activation: nn.Module, variance: float) -> float:
    """Return E[φ′(√q z)²]."""
    nodes, weights = _gauss_hermite()
    z = torch.tensor(nodes * math.sqrt(variance), requires_grad=True)
    exact = _exact(activation)
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(exact(1.0 * z).sum(), z)  # no leaf: the activation may work in place
    return float(np.average(slopes.numpy() ** 2, weights=weights))


@cache
def _gauss_hermite() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return nodes and weights for E[f(z)], z ~ N(0, 1); their number is even, so that none is at the kink of ReLU."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return nodes, weights
