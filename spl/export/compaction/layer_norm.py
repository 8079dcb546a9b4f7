"""LayerNorm over channels of which some are always 0, so that they need not be there."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.export.compaction.channels import ValueChannels


@dataclass(frozen=True)
class NormalizedChannels:
    """The channels of a LayerNorm over the last axis.

    Attributes:
        name: the name of the module.
        module: the module.
        inputs: the channels that it reads.
    """

    name: str
    module: nn.LayerNorm
    inputs: ValueChannels

    def outputs(self) -> ValueChannels:
        """Return the channels after it: those with a factor of 0 are constant, and all others vary."""
        own = {name: p.detach().double().cpu() for name, p in self.module.named_parameters()}
        if "weight" not in own:
            return self.inputs.varying()
        constants = own.get("bias", torch.zeros_like(own["weight"])).masked_fill(own["weight"] != 0, torch.nan)
        return ValueChannels(self.inputs.ids, constants, self.inputs.axis)

    def without(self, kept: Tensor) -> "PartialLayerNorm":
        """Return the LayerNorm of the kept channels, in which the zeros of the others still count."""
        own = {name: p[kept.to(p.device)] for name, p in self.module.named_parameters()}
        return PartialLayerNorm(own.get("weight"), own.get("bias"), int((~kept).sum()), self.module.eps)


class PartialLayerNorm(nn.Module):
    """LayerNorm over the last axis, of which some channels are missing because they are always 0.

    Mean and variance are those of all channels. To put the zeros back and normalize all channels at once takes less
    time than to compute mean and variance from the channels that are there.

    Args:
        weight: [C], the factors of the channels that are there; None for 1.
        bias: [C], the addends of the channels that are there; None for 0.
        missing: the number of channels that are not.
        eps: what is added to the variance.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.export.compaction.layer_norm import PartialLayerNorm
        >>> inputs, norm = torch.randn(2, 4), nn.LayerNorm(4)
        >>> inputs[:, 3] = 0.0
        >>> partial = PartialLayerNorm(norm.weight[:3], norm.bias[:3], missing=1, eps=norm.eps)
        >>> torch.allclose(partial(inputs[:, :3]), norm(inputs)[:, :3])
        True
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor | None, bias: Tensor | None, missing: int, eps: float) -> None:
        super().__init__()
        for name, own in (("weight", weight), ("bias", bias)):
            self.register_parameter(name, None if own is None else nn.Parameter(own.detach().clone()))
        self.missing = missing
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized channels [..., C]."""
        weight, bias = (None if own is None else F.pad(own, (0, self.missing)) for own in (self.weight, self.bias))
        normalized = F.layer_norm(F.pad(x, (0, self.missing)), (x.shape[-1] + self.missing,), weight, bias, self.eps)
        return normalized[..., : x.shape[-1]].contiguous()  # a Linear layer behind it takes longer for a view
