"""Which channels of a network are needed: the others can go."""

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
    """What stays of the channels that a network has.

    Attributes:
        groups: long, by id: channels of equal numbers come and go together.
        kept: bool, by group.
        why: some of the kept groups stay for another reason than that what they are is read: which.
        carriers: by layer name, the column that carries all constants to a convolution padded with zeros.
    """

    groups: Tensor
    kept: Tensor
    why: dict[int, str]
    carriers: dict[str, int]

    def is_kept(self, ids: Tensor) -> Tensor:
        """Bool, in the shape of `ids`: which of them stay."""
        return self.kept[self.groups[ids]]


def find_liveness(flow: ChannelFlow) -> Liveness:
    """The channels that something reads, and reads something other than a constant from.

    A channel goes if no row that stays reads it, or all that read it can take it for a constant, which then moves
    into their biases. Where a convolution reads zeros beyond its borders, a constant other than 0 is none to it;
    there one such channel stays, to carry all of them: the weights of column j become part of those of the
    carrier c, times v_j / v_c.
    """
    groups = _group_tied(flow)
    kept = torch.zeros(int(groups.max()) + 1 if len(groups) else 0, dtype=torch.bool)
    why: dict[int, str] = {}
    for ids, reason in flow.pins:
        kept[groups[ids]] = True
        why |= dict.fromkeys(groups[ids].tolist(), reason)
    _propagate(flow, groups, kept)
    for ids in [layer.ids for layer in flow.layers] + [added.total.ids for added in flow.sums]:
        if not kept[groups[ids]].any():
            kept[groups[ids[0]]] = True
            why[int(groups[ids[0]])] = "a layer must have one"
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


def _group_tied(flow: ChannelFlow) -> Tensor:
    if not flow.ties:
        return torch.arange(flow.id_count)
    a, b = (torch.cat([pair[side] for pair in flow.ties]).numpy() for side in (0, 1))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(flow.id_count, flow.id_count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


def _propagate(flow: ChannelFlow, groups: Tensor, kept: Tensor) -> None:
    """Keep what rows that are kept read, until nothing is added."""
    count = -1
    while count != (count := int(kept.sum())):
        for layer in reversed(flow.layers):
            if layer.inputs is not None:
                rows = kept[groups[layer.ids]]
                read = layer.reads[rows].any(0) & layer.inputs.varies
                kept[groups[layer.inputs.ids[read]]] = True


def _find_carrier(layer: LayerChannels, groups: Tensor, kept: Tensor) -> int | None:
    """The column of the largest constant, if a constant other than 0 that goes reaches a border of zeros."""
    if layer.inputs is None or not has_border(layer.module):
        return None
    rows = kept[groups[layer.ids]]
    constants = layer.inputs.constants.nan_to_num()
    goes = ~kept[groups[layer.inputs.ids]] & layer.reads[rows].any(0) & (constants != 0)
    return int(constants.abs().argmax()) if bool(goes.any()) else None
