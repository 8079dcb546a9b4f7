"""The channels of a value, and the constants that layers make of constant channels."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from spl.functional.torch_private import BatchNorm

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
ShrinkableLayer = nn.Linear | Convolution


@dataclass(frozen=True)
class ValueChannels:
    """The channels of one value [N, ..., C, ...].

    Attributes:
        ids: long [C]; equal for channels that are kept or removed together, such as the two that a sum adds.
        constants: float64 [C], the value of a channel for every input and at every position; NaN where it varies.
        axis: the axis of the channels.
    """

    ids: Tensor
    constants: Tensor
    axis: int

    @property
    def varies(self) -> Tensor:
        """Return a bool tensor [C]: True where a channel is not constant."""
        return self.constants.isnan()

    def varying(self) -> "ValueChannels":
        """Return the channels without constants."""
        return replace(self, constants=torch.full_like(self.constants, torch.nan))

    def bordered_by(self, fill: float) -> "ValueChannels":
        """Return the channels with a border of `fill` around them: only channels of that constant stay constant."""
        return replace(self, constants=self.constants.masked_fill(self.constants != fill, torch.nan))


@dataclass(frozen=True)
class LayerChannels:
    """The channels of a Linear layer or convolution: its columns read channels, its rows compute others.

    Attributes:
        name: name of the module.
        module: the layer.
        inputs: the channels that the columns read; None where the columns stay as they are.
        ids: long [out], the ids of the channels that the rows compute.
        prefix: what the names of the weight and the bias begin with, if that is not the name and a dot.
    """

    name: str
    module: ShrinkableLayer
    inputs: ValueChannels | None
    ids: Tensor
    prefix: str | None = None

    def parameter(self, own: str) -> str:
        """Return the name in the network of the layer's own "weight" or "bias"."""
        return f"{self.name}.{own}" if self.prefix is None else self.prefix + own

    @cached_property
    def reads(self) -> Tensor:
        """Return a bool tensor [out, in]: True where the row has a weight other than 0 for the input."""
        return _of_all_groups((_taps(self.module) != 0).any(-1), self.module)

    @cached_property
    def sums(self) -> Tensor:
        """Return a float64 tensor [out, in]: the factor of an input that is the same at all taps."""
        return _of_all_groups(_taps(self.module).double().sum(-1), self.module)

    @cached_property
    def emitted(self) -> Tensor:
        """Return a float64 tensor [out]: the constants of rows that read nothing but constants, NaN for the others."""
        start = _bias(self.module)
        if self.inputs is None:
            return start.masked_fill(self.reads.any(1), torch.nan)
        inputs = self.inputs.bordered_by(0.0) if has_border(self.module) else self.inputs
        constants = start + self.sums @ inputs.constants.nan_to_num()
        return constants.masked_fill((self.reads & inputs.varies).any(1), torch.nan)


def has_border(layer: ShrinkableLayer) -> bool:
    """Return whether a layer reads zeros beyond the border, so that only 0 is constant to it."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return max(layer.kernel_size) > 1 if layer.padding == "same" else any(layer.padding)


def is_depthwise(module: nn.Module | None) -> bool:
    """Return whether a module is a convolution of each channel by itself."""
    return isinstance(module, Convolution) and 1 < module.groups == module.in_channels == module.out_channels


def convolved(convolution: Convolution, inputs: ValueChannels) -> ValueChannels:
    """Return the channels after a depthwise convolution, in which a kernel of zeros makes its channel constant."""
    inputs = inputs.bordered_by(0.0) if has_border(convolution) else inputs
    kernels = _taps(convolution)[:, 0].double()
    read = inputs.constants.masked_fill((kernels == 0).all(-1), 0.0)
    return replace(inputs, constants=_bias(convolution) + kernels.sum(-1) * read)


def normalized(norm: BatchNorm, inputs: ValueChannels) -> ValueChannels:
    """Return the channels after BatchNorm; none is constant where it normalizes by each batch's own statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return inputs.varying()
    state = {name: t.detach().double().cpu() for name, t in [*norm.named_parameters(), *norm.named_buffers()]}
    scale = (state["running_var"] + norm.eps).rsqrt() * state.get("weight", torch.ones(1))
    shift = state.get("bias", torch.zeros(1))
    return replace(inputs, constants=(inputs.constants - state["running_mean"]) * scale + shift)


def _taps(layer: ShrinkableLayer) -> Tensor:
    """Return the weight as [out, in, taps], on the CPU."""
    weight = layer.weight.detach().cpu()
    return weight.reshape(*weight.shape[:2], -1)


def _of_all_groups(matrix: Tensor, layer: ShrinkableLayer) -> Tensor:
    """Return a matrix [out, in] with 0 where a row reads nothing, from a matrix [out, in / groups]."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return matrix
    dense: Tensor = torch.block_diag(*matrix.chunk(groups))  # type: ignore[no-untyped-call]
    return dense


def _bias(layer: ShrinkableLayer) -> Tensor:
    if layer.bias is None:
        return torch.zeros(len(layer.weight), dtype=torch.float64)
    return layer.bias.detach().double().cpu()
