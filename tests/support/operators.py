"""Convolutions as linear operators, for the tests of initializers and isometry."""

import math

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def convolutions(draw: st.DrawFn, channels: int, kernels: tuple[int, int, int], strides: int) -> _ConvNd:
    """Draw a convolution along 1 to 3 axes, without padding or bias, in float64.

    Args:
        channels: the largest number of input and output channels of a group.
        kernels: the largest kernel sizes for 1, 2 and 3 axes.
        strides: the largest stride.
    """
    axes = draw(st.integers(1, 3))

    def numbers(largest: int) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(1, largest)] * axes))

    groups = draw(st.integers(1, 2))
    fan_in, fan_out = (groups * draw(st.integers(1, channels)) for _ in range(2))
    geometry = {"stride": numbers(strides), "dilation": numbers(2), "groups": groups}
    kernel = numbers(kernels[axes - 1])
    torch.manual_seed(draw(st.integers(0, 10**6)))
    return CONVOLUTIONS[axes](fan_in, fan_out, kernel, bias=False, dtype=torch.float64, **geometry)


def transposed(layer: _ConvNd) -> _ConvTransposeNd:
    """Return the transposed convolution that shares the weight of `layer`."""
    geometry = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups, "bias": False}
    other = TRANSPOSED[len(layer.stride)](layer.out_channels, layer.in_channels, layer.kernel_size, **geometry)
    other.weight = layer.weight
    return other


def around(layer: _ConvNd, x: Tensor) -> Tensor:
    """Apply a convolution without padding, transposed or not, to images whose borders wrap around."""
    spans = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    if not isinstance(layer, _ConvTransposeNd):
        return layer(F.pad(x, [pad for span in reversed(spans) for pad in (0, span)], mode="circular"))
    y = layer(x)
    for axis, s in enumerate(layer.stride, start=2):
        size = s * x.shape[axis]
        missing = -y.shape[axis] % size
        y = F.pad(y, (0, 0) * (y.ndim - 1 - axis) + (0, missing)).unflatten(axis, (-1, size)).sum(axis)
    return y


def dense(layer: _ConvNd, sizes: tuple[int, ...]) -> Tensor:
    """Return the matrix of `around(layer, ·)` on images of these sizes."""
    channels = layer.in_channels * math.prod(sizes)
    images = torch.eye(channels, dtype=layer.weight.dtype).view(channels, layer.in_channels, *sizes)
    return around(layer, images).detach().flatten(1).T
