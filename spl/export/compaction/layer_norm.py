"""LayerNorm over channels of which some are always 0, so that they need not be there."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spl.export.compaction.channels import ValueChannels
from spl.export.compaction.tracing import Traced

_ARGUMENTS = ("input", "normalized_shape", "weight", "bias", "eps")


@dataclass(frozen=True)
class NormalizedChannels:
    """A LayerNorm over the last axis, which is that of the channels.

    Attributes:
        node: the node that calls the module `nn.LayerNorm` or the function `F.layer_norm`.
        inputs: the channels that it reads.
        parameters: the names of its weight and bias; None where it has none.
        weight: [C], its factors.
        bias: [C], its addends.
        eps: what it adds to the variance.
    """

    node: fx.Node
    inputs: ValueChannels
    parameters: tuple[str | None, str | None]
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, node: fx.Node, traced: Traced, inputs: ValueChannels | None) -> "NormalizedChannels | None":
        """Return the LayerNorm that a node is; None if it is none, or normalizes over other axes."""
        module = traced.module(node)
        if inputs is None or inputs.axis != traced.values[node.all_input_nodes[0]].ndim - 1:
            return None
        if type(module) is nn.LayerNorm:
            own = {name for name, parameter in module.named_parameters() if parameter is not None}
            names = [f"{node.target}.{name}" if name in own else None for name in ("weight", "bias")]
            shape, eps = module.normalized_shape, module.eps
            tensors: list[Any] = [module.weight, module.bias]
        elif node.target is F.layer_norm:
            given: dict[str, Any] = dict(zip(_ARGUMENTS, node.args, strict=False)) | node.kwargs
            nodes = [given.get(name) for name in ("weight", "bias")]
            if any(n is not None and not (isinstance(n, fx.Node) and n.op == "get_attr") for n in nodes):
                return None
            names = [str(n.target) if isinstance(n, fx.Node) else None for n in nodes]
            shape, eps = given["normalized_shape"], given.get("eps", 1e-5)
            tensors = [traced.values[n] if isinstance(n, fx.Node) else None for n in nodes]
        else:
            return None
        count = len(inputs.ids)
        if len(shape) != 1:
            return None
        weight = torch.ones(count) if tensors[0] is None else tensors[0]
        bias = torch.zeros(count) if tensors[1] is None else tensors[1]
        return cls(node, inputs, (names[0], names[1]), weight, bias, eps)

    def outputs(self) -> ValueChannels:
        """Return the channels after it: those with a factor of 0 are constant, and all others vary."""
        weight, bias = (tensor.detach().double().cpu() for tensor in (self.weight, self.bias))
        constants = bias.masked_fill(weight != 0, torch.nan)
        return ValueChannels(self.inputs.ids, constants, self.inputs.axis)

    def without(self, kept: Tensor) -> "PartialLayerNorm":
        """Return the LayerNorm of the kept channels, in which the zeros of the others still count."""
        here = kept.to(self.weight.device)
        return PartialLayerNorm(self.weight[here], self.bias[here], int((~kept).sum()), self.eps)


class PartialLayerNorm(nn.Module):
    """LayerNorm over the last axis, of which some channels are missing because they are always 0.

    Mean and variance are those of all channels. To put the zeros back and normalize all channels at once takes less
    time than to compute mean and variance from the channels that are there.

    Args:
        weight: [C], the factors of the channels that are there.
        bias: [C], the addends of the channels that are there.
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

    def __init__(self, weight: Tensor, bias: Tensor, missing: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.missing = missing
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized channels [..., C]."""
        whole, weight, bias = (F.pad(tensor, (0, self.missing)) for tensor in (x, self.weight, self.bias))
        normalized = F.layer_norm(whole, (len(weight),), weight, bias, self.eps)
        return normalized[..., : x.shape[-1]].contiguous()  # a Linear layer behind it takes longer for a view
