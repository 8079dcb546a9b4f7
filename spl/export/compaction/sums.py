"""Sums of values that have some of the channels each."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from spl.export.compaction.channels import Channels


@dataclass(frozen=True)
class Sum:
    """Of two values, of which each need only have the channels that vary in it.

    Attributes:
        node: what adds them.
        addends: the channels of its inputs.
        total: the channels of the sum.
    """

    node: fx.Node
    addends: tuple[Channels, Channels]
    total: Channels


class PartialSum(nn.Module):
    """constants + Σ of addends, of each of which the channels are added where they belong.

    What an addend lacks is constant, and part of the constants: so a layer that writes to a residual stream computes
    none of the channels that its mask has killed.

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
        for i, own in enumerate(places):
            self.register_buffer(f"places{i}", own[own >= 0])
            self.register_buffer(f"taken{i}", None if bool((own >= 0).all()) else (own >= 0).nonzero()[:, 0])

    def forward(self, *addends: Tensor) -> Tensor:
        """[N, ..., C_i, ...] each → [N, ..., C, ...]."""
        shape = [*addends[0].shape]
        shape[self.axis] = len(self.constants)
        total = self.constants.view(-1, *(1,) * (len(shape) - 1 - self.axis)).expand(shape)
        for i, addend in enumerate(addends):
            places, taken = getattr(self, f"places{i}"), getattr(self, f"taken{i}")
            part = addend if taken is None else addend.index_select(self.axis, taken)
            total = total.index_add(self.axis, places, part)
        return total
