"""Initial weights: orthogonal, variance scaling, Gaussian. Biases start at zero."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from spl.errors import InputError

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class Initializer(ABC):
    """Draws the weights of every Linear and convolutional layer from the global random stream; biases are 0."""

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        """Initialize `network` in place; other layers (normalization, embeddings) keep their own weights."""
        for name, layer in network.named_modules():
            if isinstance(layer, _LAYERS):
                self.fill_(layer.weight, name)
                if layer.bias is not None:
                    layer.bias.zero_()

    @abstractmethod
    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw `weight` [out, in, ...] in place; `layer` is its layer's name, for messages."""


class Orthogonal(Initializer):
    """Layerwise dynamical isometry (LDI): W is uniform among matrices whose singular values all equal `gain`.

    Saxe et al. 2014; section 4 of Lee et al. 2020, whose gain is 1 for every activation.

    Args:
        gain: the value of every singular value.
    """

    def __init__(self, gain: float = 1.0) -> None:
        if not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        self.gain = gain

    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw an orthogonal matrix; a reshaped kernel would not be orthogonal as an operator, so none is drawn."""
        if weight.ndim > 2:
            raise InputError(
                f"Orthogonal initializes Linear layers, but {layer} is a convolution, and an orthogonal reshaped "
                "kernel is no isometry. Use LeCunNormal, GlorotNormal or HeNormal."
            )
        nn.init.orthogonal_(weight, self.gain)


class LeCunNormal(Initializer):
    """VS-L: N(0, 1/fan_in)."""

    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw with variance 1/fan_in."""
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
        weight.normal_(0.0, math.sqrt(1.0 / fan_in))


class GlorotNormal(Initializer):
    """VS-G: N(0, 2/(fan_in + fan_out)), Glorot & Bengio 2010."""

    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw with variance 2/(fan_in + fan_out)."""
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
        weight.normal_(0.0, math.sqrt(2.0 / (fan_in + fan_out)))


class HeNormal(Initializer):
    """VS-H: N(0, 2/fan_in), He et al. 2015."""

    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw with variance 2/fan_in."""
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
        weight.normal_(0.0, math.sqrt(2.0 / fan_in))


class Gaussian(Initializer):
    """SG(γ): N(0, γ) whatever the layer's size.

    Args:
        variance: γ, the variance (not the standard deviation) of every weight.
    """

    def __init__(self, variance: float = 0.01) -> None:
        if not variance > 0:
            raise InputError(f"variance must be positive, got {variance}.")
        self.variance = variance

    def fill_(self, weight: Tensor, layer: str) -> None:
        """Draw with variance γ."""
        weight.normal_(0.0, math.sqrt(self.variance))
