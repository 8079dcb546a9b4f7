"""Mean-field theory at initialization: the gain at which signals neither grow nor shrink from layer to layer."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spl.layers import ACTIVATIONS, WEIGHTED


def critical_gain(activation: nn.Module, variance: float = 1 / 40) -> float:
    """σ_w with σ_w² E[φ′(√q z)²] = 1, z ~ N(0, 1): gradients keep their mean square through φ and the layer before it.

    Poole et al. 2016, Schoenholz et al. 2017. Of ReLU it is √2 and of the identity 1 at any q. Of tanh it is 1.024 at
    q = 1/40, the critical point (σ_w², σ_b²) = (1.05, 2e-5) at which Xiao et al. 2018 start.

    Args:
        activation: φ, elementwise.
        variance: q, of the pre-activations.
    """
    nodes, weights = _gauss_hermite()
    z = torch.tensor(nodes * math.sqrt(variance), requires_grad=True)
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(activation(1.0 * z).sum(), z)  # a leaf must not be changed in place
    return float(1 / np.sqrt(np.average(slopes.numpy() ** 2, weights=weights)))


@cache
def _gauss_hermite() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes and weights for E[f(z)], z ~ N(0, 1); an even number, so that none is at the kink of ReLU."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return nodes, weights


def layer_gains(network: nn.Module) -> dict[str, float]:
    """The critical gain of every Linear and convolutional weight, by name, for the activation that follows it.

    That is the first activation among the modules after the layer, in the order in which the network lists them, and
    before the next layer; 1 where there is none.
    """
    gains: dict[str, float] = {}
    last = None
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED):
            last = f"{name}.weight" if name else "weight"
            gains[last] = 1.0
        elif isinstance(module, ACTIVATIONS) and last is not None:
            gains[last] = critical_gain(module)
            last = None
    return gains
