"""The channels of a value, and what layers make of those that are constant."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
ShrinkableLayer = nn.Linear | Convolution


@dataclass(frozen=True)
class ValueChannels:
    """Those of one value [N, ..., C, ...].

    Attributes:
        ids: long [C]; equal where channels come and go together, such as the two that a sum adds.
        constants: float64 [C], what a channel is for every input and at every position; NaN where it varies.
        axis: where they lie.
    """

    ids: Tensor
    constants: Tensor
    axis: int

    @property
    def varies(self) -> Tensor:
        """Bool [C]."""
        return self.constants.isnan()

    def bordered_by(self, fill: float) -> "ValueChannels":
        """With numbers beside them, from which all others now vary."""
        return replace(self, constants=self.constants.masked_fill(self.constants != fill, torch.nan))


@dataclass(frozen=True)
class LayerChannels:
    """A Linear layer or convolution: its columns read channels, its rows make others.

    Attributes:
        name: of the module.
        module: the layer.
        inputs: None where the columns stay as they are.
        ids: long [out], of the channels that the rows make.
    """

    name: str
    module: ShrinkableLayer
    inputs: ValueChannels | None
    ids: Tensor

    @cached_property
    def reads(self) -> Tensor:
        """Bool [out, in]: in which row an input has a weight other than 0."""
        return (_taps(self.module) != 0).any(-1)

    @cached_property
    def sums(self) -> Tensor:
        """float64 [out, in]: what each input is multiplied by where it is the same at all taps."""
        return _taps(self.module).double().sum(-1)

    @cached_property
    def emitted(self) -> Tensor:
        """float64 [out]: the constants of the rows that read nothing, or constants alone; NaN of the others."""
        start = _bias(self.module)
        if self.inputs is None:
            return start.masked_fill(self.reads.any(1), torch.nan)
        inputs = self.inputs.bordered_by(0.0) if has_border(self.module) else self.inputs
        constants = start + self.sums @ inputs.constants.nan_to_num()
        return constants.masked_fill((self.reads & inputs.varies).any(1), torch.nan)


def has_border(layer: ShrinkableLayer) -> bool:
    """Whether it reads zeros beyond the border, so that nothing but 0 is constant to it."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return max(layer.kernel_size) > 1 if layer.padding == "same" else any(layer.padding)


def is_depthwise(module: nn.Module | None) -> bool:
    """Whether it is a convolution of each channel by itself."""
    return isinstance(module, Convolution) and 1 < module.groups == module.in_channels == module.out_channels


def convolved(convolution: Convolution, inputs: ValueChannels) -> ValueChannels:
    """After a convolution of each channel by itself, where a kernel of zeros makes a constant of its channel."""
    inputs = inputs.bordered_by(0.0) if has_border(convolution) else inputs
    kernels = _taps(convolution)[:, 0].double()
    read = inputs.constants.masked_fill((kernels == 0).all(-1), 0.0)
    return replace(inputs, constants=_bias(convolution) + kernels.sum(-1) * read)


def normalized(norm: _BatchNorm, inputs: ValueChannels) -> ValueChannels:
    """After BatchNorm; constants vary where it normalizes by each batch's own statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return replace(inputs, constants=torch.full_like(inputs.constants, torch.nan))
    state = {name: t.detach().double().cpu() for name, t in [*norm.named_parameters(), *norm.named_buffers()]}
    scale = (state["running_var"] + norm.eps).rsqrt() * state.get("weight", torch.ones(1))
    shift = state.get("bias", torch.zeros(1))
    return replace(inputs, constants=(inputs.constants - state["running_mean"]) * scale + shift)


def _taps(layer: ShrinkableLayer) -> Tensor:
    """The weight as [out, in, taps], on the CPU."""
    weight = layer.weight.detach().cpu()
    return weight.reshape(*weight.shape[:2], -1)


def _bias(layer: ShrinkableLayer) -> Tensor:
    if layer.bias is None:
        return torch.zeros(len(layer.weight), dtype=torch.float64)
    return layer.bias.detach().double().cpu()
