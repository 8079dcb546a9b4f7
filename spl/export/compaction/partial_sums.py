"""Sums of values that each have only some of the channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spl.export.compaction.channels import ValueChannels


@dataclass(frozen=True)
class Sum:
    """A sum of two values, each of which needs only the channels that vary in it.

    Attributes:
        node: the node that adds them.
        addends: the channels of its inputs.
        total: the channels of the sum.
    """

    node: fx.Node
    addends: tuple[ValueChannels, ValueChannels]
    total: ValueChannels


class PartialSum(nn.Module):
    """The sum of values that each have only some of the channels: constants + Σ addends, channel by channel.

    Channels that an addend lacks are constant in it, and part of the constants of the sum. So a layer that writes to a
    residual stream does not compute the channels that its mask has killed. An addend that has all channels is added
    plainly. Otherwise an ONNX file would lose the other addends: onnxscript's optimizer takes a scatter to all places
    for an assignment, even where it should add.

    Args:
        constants: [C], the constants of the sum.
        places: for each addend, long [C_i], the places of its channels in the sum; -1 for a channel that is not in it.
        axis: the axis of the channels.

    Example:
        >>> import torch
        >>> from spl.export.compaction.partial_sums import PartialSum
        >>> total = PartialSum(torch.tensor([10.0, 20.0, 30.0]), [torch.tensor([0]), torch.tensor([0, 2])], axis=1)
        >>> total(torch.tensor([[1.0]]), torch.tensor([[2.0, 3.0]]))
        tensor([[13., 20., 33.]])
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
        """Return the sum [N, ..., C, ...] of addends [N, ..., C_i, ...]."""
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
