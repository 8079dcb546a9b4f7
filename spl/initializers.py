"""Initializers of weights: orthogonal matrices and convolutions, variance scaling, Gaussian. Biases start at zero."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from spl.errors import InputError
from spl.functional.drawable import check_drawable
from spl.functional.layers import WEIGHTED


class Initializer(ABC):
    """A rule that draws the weights of Linear and convolutional layers from torch's global random stream.

    Biases become 0.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import Initializer
        >>> class Uniform(Initializer):
        ...     def fill_(self, weight):
        ...         weight.uniform_(-0.1, 0.1)
        >>> layer = nn.Linear(4, 4)
        >>> Uniform()(layer)
        >>> bool(layer.weight.abs().max() <= 0.1), layer.bias.tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
    """

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        """Initialize `network` in place; other layers (normalization, embeddings) keep the weights that they have.

        Raises:
            InputError: a weight or bias is computed from others (weight norm, spectral norm), complex, or not made yet
                (lazy layers). No weight has been drawn then.
        """
        check_drawable(network)
        for layer in network.modules():
            if isinstance(layer, WEIGHTED):
                for block in layer.weight.chunk(getattr(layer, "groups", 1)):
                    self.fill_(block)
                if layer.bias is not None:
                    layer.bias.zero_()

    @abstractmethod
    def fill_(self, weight: Tensor) -> None:
        """Draw `weight` [out, in, ...] in place; it is called once for each group of a grouped convolution."""


class Orthogonal(Initializer):
    """The orthogonal initialization, or layerwise dynamical isometry (LDI): all singular values equal `gain`.

    Matrices are uniformly distributed over the orthogonal ones (Saxe et al. 2014). For a convolution, the operator is
    orthogonal, not the reshaped kernel. At stride 1, on images whose borders wrap around, it keeps the norm of every
    image if c_in ≤ c_out (Xiao et al. 2018, algorithm 1). If c_in > c_out, its transpose does, at any stride.
    See section 4 of Lee et al. 2020, whose gain is 1 for every activation.

    Args:
        gain: the value of every singular value.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import Orthogonal
        >>> network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
        >>> Orthogonal(gain=2.0)(network)
        >>> torch.linalg.svdvals(network[0].weight.detach()).tolist()
        [2.00, 2.00, 2.00, 2.00]
    """

    def __init__(self, gain: float = 1.0) -> None:
        if not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        self.gain = gain

    def fill_(self, weight: Tensor) -> None:
        """Draw an orthogonal matrix or a convolutional-orthogonal kernel."""
        if weight.ndim == 2:
            nn.init.orthogonal_(weight, self.gain)
        else:
            _copy_taps_(weight, self.gain * self._taps(weight))

    def _taps(self, weight: Tensor) -> Tensor:
        """Return the convolution of an orthogonal matrix with k − 1 pairs of projections P, 1 − P along each axis."""
        sizes = weight.shape[2:]
        taps = _orthogonal(weight)[(None,) * len(sizes)]
        for step in range(1, max(sizes)):
            for axis, size in enumerate(sizes):
                if step < size:
                    projected = _projection(taps.shape[-2], taps) @ taps
                    blank = torch.zeros_like(taps.narrow(axis, 0, 1))
                    taps = torch.cat([projected, blank], axis) + torch.cat([blank, taps - projected], axis)
        return taps


class DeltaOrthogonal(Orthogonal):
    """The delta-orthogonal initialization: kernels are 0 except for the middle tap, which is an orthogonal matrix.

    Linear layers get orthogonal matrices. The convolutions are isometries like those of `Orthogonal`, and also on
    images that are padded with zeros. Xiao et al. 2018, algorithm 2.

    Args:
        gain: the value of every singular value.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import DeltaOrthogonal
        >>> convolution = nn.Conv2d(4, 4, kernel_size=3, padding=1)
        >>> DeltaOrthogonal()(convolution)
        >>> images = torch.ones(1, 4, 5, 5)
        >>> images.norm().item(), convolution(images).norm().item()
        (10.00, 10.00)
    """

    def _taps(self, weight: Tensor) -> Tensor:
        """Return taps of zeros with an orthogonal matrix in the middle."""
        sizes = weight.shape[2:]
        matrix = _orthogonal(weight)
        taps = matrix.new_zeros(*sizes, *matrix.shape)
        taps[tuple((size - 1) // 2 for size in sizes)] = matrix
        return taps


def _orthogonal(weight: Tensor) -> Tensor:
    """Return a uniformly distributed matrix with orthonormal columns, in float64.

    Its rows are as many as the larger side of `weight` has, its columns as many as the smaller.
    """
    sides = sorted(weight.shape[:2], reverse=True)
    return nn.init.orthogonal_(torch.empty(*sides, dtype=torch.float64, device=weight.device))


def _projection(size: int, like: Tensor) -> Tensor:
    """Return the projection onto a random subspace: each axis of a random frame lies inside with probability ½."""
    frame = nn.init.orthogonal_(like.new_empty(size, size))
    inside = frame[:, torch.rand(size, device=like.device) < 0.5]
    return inside @ inside.mT


def _copy_taps_(weight: Tensor, taps: Tensor) -> None:
    """Copy taps [..., larger side, smaller side] into a weight [out, in, ...]."""
    larger, smaller = (-2, -1) if weight.shape[0] >= weight.shape[1] else (-1, -2)
    weight.copy_(taps.movedim((larger, smaller), (0, 1)))


class LeCunNormal(Initializer):
    """LeCun's variance scaling (VS-L): N(0, 1/fan_in).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import LeCunNormal
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Linear(100, 400)
        >>> LeCunNormal()(layer)
        >>> 100 * layer.weight.var().item()
        1.00
    """

    def fill_(self, weight: Tensor) -> None:
        """Draw with variance 1/fan_in."""
        _fan_in_normal_(weight, 1.0)


class GlorotNormal(Initializer):
    """Glorot's (Xavier) variance scaling (VS-G): N(0, 2/(fan_in + fan_out)), Glorot & Bengio 2010.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import GlorotNormal
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Linear(100, 400)
        >>> GlorotNormal()(layer)
        >>> (100 + 400) * layer.weight.var().item()
        1.99
    """

    def fill_(self, weight: Tensor) -> None:
        """Draw with variance 2/(fan_in + fan_out)."""
        nn.init.xavier_normal_(weight)


class HeNormal(Initializer):
    """He's (Kaiming) variance scaling (VS-H): N(0, 2/fan_in), He et al. 2015.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import HeNormal
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Linear(100, 400)
        >>> HeNormal()(layer)
        >>> 100 * layer.weight.var().item()
        1.99
    """

    def fill_(self, weight: Tensor) -> None:
        """Draw with variance 2/fan_in."""
        _fan_in_normal_(weight, 2.0)


def _fan_in_normal_(weight: Tensor, scale: float) -> None:
    """Draw from N(0, scale/fan_in).

    `nn.init.kaiming_normal_` draws the same numbers in float32, but differs in the last bits of float64.
    """
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    weight.normal_(0.0, math.sqrt(scale / fan_in))


class Gaussian(Initializer):
    """The scaled Gaussian SG(γ): N(0, γ), independent of the layer's size.

    Args:
        variance: γ, the variance (not the standard deviation) of every weight.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import Gaussian
        >>> _ = torch.manual_seed(0)
        >>> layer = nn.Linear(100, 400)
        >>> Gaussian(variance=0.04)(layer)
        >>> layer.weight.var().item()
        0.04
    """

    def __init__(self, variance: float = 0.01) -> None:
        if not variance > 0:
            raise InputError(f"variance must be positive, got {variance}.")
        self.variance = variance

    def fill_(self, weight: Tensor) -> None:
        """Draw with variance γ."""
        weight.normal_(0.0, math.sqrt(self.variance))
