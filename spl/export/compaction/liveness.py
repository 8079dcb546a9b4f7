"""The channels of a network that are needed; the others can be removed."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from spl.export.compaction.channel_flow import ChannelFlow
from spl.export.compaction.channels import LayerChannels, has_border


@dataclass(frozen=True)
class Liveness:
    """The channels of a network that stay.

    Attributes:
        groups: long [ids], the group of each id; the channels of a group are kept or removed together.
        kept: bool [groups], True for groups that are kept.
        why: the reasons of the groups that are kept for another reason than that their values are read.
        carriers: by layer name, the column that carries all constants to a convolution that pads with zeros.
    """

    groups: Tensor
    kept: Tensor
    why: dict[int, str]
    carriers: dict[str, int]

    def is_kept(self, ids: Tensor) -> Tensor:
        """Return a bool tensor in the shape of `ids`: True for channels that stay."""
        return self.kept[self.groups[ids]]


def find_liveness(flow: ChannelFlow) -> Liveness:
    """Find the channels from which something other than a constant is read.

    A channel is removed if no row that stays reads it, or if it is constant to all that read it; the constant then
    moves into their biases. Where a convolution reads zeros beyond its borders, a constant other than 0 is not constant
    to it. One such channel stays to carry all of them: the weights of column j, times v_j / v_c, are added to those of
    the carrier c.
    """
    groups = group_tied(flow)
    kept = torch.zeros(int(groups.max()) + 1 if len(groups) else 0, dtype=torch.bool)
    why: dict[int, str] = {}
    for ids, reason in flow.pins:
        kept[groups[ids]] = True
        why |= dict.fromkeys(groups[ids].tolist(), reason)
    _propagate(flow, groups, kept)
    for ids in [layer.ids for layer in flow.layers] + [added.total.ids for added in flow.sums]:
        if not kept[groups[ids]].any():
            kept[groups[ids[0]]] = True
            why[int(groups[ids[0]])] = "a layer must keep one"
    carriers = {}
    for layer in reversed(flow.layers):
        column = _find_carrier(layer, groups, kept)
        if layer.inputs is not None and column is not None:
            carriers[layer.name] = column
            group = int(groups[layer.inputs.ids[column]])
            if not kept[group]:
                kept[group] = True
                why[group] = f"carries constants to {layer.name}, which pads with zeros"
    return Liveness(groups, kept, why, carriers)


def group_tied(flow: ChannelFlow) -> Tensor:
    """Return the group of each id, long [ids]: those of channels that are kept or removed together are equal."""
    if not flow.ties:
        return torch.arange(flow.id_count)
    a, b = (torch.cat([pair[side] for pair in flow.ties]).numpy() for side in (0, 1))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(flow.id_count, flow.id_count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def _propagate(flow: ChannelFlow, groups: Tensor, kept: Tensor) -> None:
    """Keep the channels that kept rows read, until none is added."""
    count = -1
    while count != (count := int(kept.sum())):
        for layer in reversed(flow.layers):
            if layer.inputs is not None:
                rows = kept[groups[layer.ids]]
                read = layer.reads[rows].any(0) & layer.inputs.varies
                kept[groups[layer.inputs.ids[read]]] = True


def _find_carrier(layer: LayerChannels, groups: Tensor, kept: Tensor) -> int | None:
    """Return the column of the largest constant, if a removed constant other than 0 reaches a border of zeros."""
    if layer.inputs is None or not has_border(layer.module):
        return None
    rows = kept[groups[layer.ids]]
    constants = layer.inputs.constants.nan_to_num()
    goes = ~kept[groups[layer.inputs.ids]] & layer.reads[rows].any(0) & (constants != 0)
    return int(constants.abs().argmax()) if bool(goes.any()) else None
