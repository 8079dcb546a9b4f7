"""Sums of values that have some of the channels each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spl.export.compaction.channels import ValueChannels


@dataclass(frozen=True)
class Sum:
    """Of two values, of which each need only have the channels that vary in it.

    Attributes:
        node: what adds them.
        addends: the channels of its inputs.
        total: the channels of the sum.
    """

    node: fx.Node
    addends: tuple[ValueChannels, ValueChannels]
    total: ValueChannels


class PartialSum(nn.Module):
    """Add values that have some of the channels each: constants + Σ of addends, channel by channel.

    What an addend lacks is constant, and part of the constants: so a layer that writes to a residual stream computes
    none of the channels that its mask has killed. An addend that has all channels is added plainly. Without that, an
    ONNX file would lose the other addends: onnxscript's optimizer takes a scatter to all places for an assignment,
    also where it is to add.

    Args:
        constants: [C], of the sum.
        places: of each addend, long [C_i]: its channels' places in the sum; -1 for one that is not in the sum.
        axis: where the channels lie.
    """

    constants: Tensor

    def __init__(self, constants: Tensor, places: Sequence[Tensor], axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("constants", constants)
        for i, given in enumerate(places):
            taken = (given >= 0).nonzero()[:, 0]
            has_all = torch.equal(given[taken], torch.arange(len(constants)))
            self.register_buffer(f"taken{i}", None if len(taken) == len(given) else taken)
            self.register_buffer(f"places{i}", None if has_all else given[taken])

    def forward(self, *addends: Tensor) -> Tensor:
        """Return the sum: [N, ..., C_i, ...] each → [N, ..., C, ...]."""
        shape = [*addends[0].shape]
        shape[self.axis] = len(self.constants)
        total = self.constants.view(-1, *(1,) * (len(shape) - 1 - self.axis))
        scattered = []
        for i, addend in enumerate(addends):
            taken, places = getattr(self, f"taken{i}"), getattr(self, f"places{i}")
            part = addend if taken is None else addend.index_select(self.axis, taken)
            if places is None:
                total = total + part
            elif len(places):
                scattered.append((places, part))
        total = total.expand(shape)
        for places, part in scattered:
            total = total.index_add(self.axis, places, part)
        return total
