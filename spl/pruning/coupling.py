"""The channels of a network that belong together, because sums, products or depthwise convolutions join them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spl.export.compaction.channel_flow import OUTPUTS, ChannelFlow
from spl.export.compaction.channels import is_depthwise
from spl.export.compaction.liveness import group_tied
from spl.export.compaction.tracing import trace
from spl.functional.held_objects import detached_copy
from spl.functional.torch_private import BatchNorm

STAYS = -1
"""The number of a channel that is never pruned."""


@dataclass(frozen=True)
class Coupling:
    """The coupled channels of a network, numbered from 0, and where each of them is written and read.

    Several rows or columns may have the same number, as those of a head of attention do.

    Attributes:
        groups: the numbers of the channels by group, such as all channels of a residual stream. The name of a group is
            that of the first weight that writes to it.
        rows: by weight, long [out]: the number of the channel that each row writes to, or `STAYS`.
        columns: by weight, long [in]: the number of the channel that each column reads, or `STAYS`. Biases and weights
            of which it is not known what they read have none.
        vectors: by name, long [out]: the channels of the biases and of the weights of normalization that are not pruned
            for themselves. Those of a pruned channel are 0, so that nothing is left of it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.pruning.coupling import find_coupling
        >>> network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
        >>> coupling = find_coupling(network, torch.randn(1, 3), weights)
        >>> coupling.groups, coupling.rows["2.weight"], coupling.columns["2.weight"]
        ({'0.weight': tensor([0, 1, 2, 3])}, tensor([-1, -1]), tensor([0, 1, 2, 3]))
    """

    groups: dict[str, Tensor]
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    vectors: dict[str, Tensor]

    @property
    def count(self) -> int:
        """The number of channels."""
        return sum(len(channels) for channels in self.groups.values())


def find_coupling(network: nn.Module, example: Tensor, parameters: Mapping[str, Tensor]) -> Coupling:
    """Find the coupled channels of a network from the operations that it does for an example.

    Channels that are added to or multiplied by each other are one channel, and so are the channels before and after a
    depthwise convolution, BatchNorm or an activation. The outputs of the network stay, and so does what is written by a
    weight that is not among `parameters`. A head of self-attention is one channel, see `Channels`. Rows of weights that
    the trace does not show as layers, such as those of other attention and of recurrent layers, are channels by
    themselves.

    Args:
        network: the network; it is not changed.
        example: one batch of inputs, on the network's device.
        parameters: the weights and biases to prune, by name.

    Raises:
        InputError: torch.fx cannot trace the network.
    """
    flow = _flow_of_drawn_weights(network, example)
    group_of = group_tied(flow)
    written, normalized = (
        {name: group_of[ids] for name, ids in found.items()} for found in (_written(flow), _normalized(flow))
    )
    own = dict(network.named_parameters())
    vectors = {
        name: channels
        for name, channels in (normalized | written).items()
        if name in own and own[name].ndim == 1 and name not in parameters
    }
    read = {
        layer.parameter("weight"): group_of[layer.inputs.ids[: layer.module.weight.shape[1]]]  # the same of all groups
        for layer in flow.layers
        if layer.inputs is not None
    }
    stays = torch.zeros(int(group_of.max()) + 1 if len(group_of) else 0, dtype=torch.bool)
    for ids, why in flow.pins:
        stays[group_of[ids]] |= why == OUTPUTS
    for name, channels in written.items():
        stays[channels] |= name.endswith("weight") and name not in parameters
    return _numbered(parameters, written, read, vectors, stays)


def _flow_of_drawn_weights(network: nn.Module, example: Tensor) -> ChannelFlow:
    """Return the channels of a network whose numbers are drawn anew: weights of 0 would hide what belongs together."""
    drawn = detached_copy(network).eval()
    with torch.no_grad(), torch.random.fork_rng():
        for parameter in drawn.parameters():
            parameter.normal_()
        return ChannelFlow(trace(drawn, example))


def _written(flow: ChannelFlow) -> dict[str, Tensor]:
    """Return the ids that the rows of each weight and bias write to, by name."""
    found = {layer.parameter(own): layer.ids for layer in flow.layers for own in ("weight", "bias")}
    for node, channels in flow.channels.items():
        if channels is not None and is_depthwise(flow.traced.module(node)):
            found |= {f"{node.target}.{own}": channels.ids for own in ("weight", "bias")}
    return found


def _normalized(flow: ChannelFlow) -> dict[str, Tensor]:
    """Return the ids of the channels that the weight and the bias of each normalization act on, by name."""
    found: dict[str, Tensor] = {}
    for node, channels in flow.channels.items():
        if channels is not None and isinstance(flow.traced.module(node), BatchNorm):
            found |= {f"{node.target}.{own}": channels.ids for own in ("weight", "bias")}
    for norm in flow.norms:
        found |= {f"{norm.name}.{own}": norm.inputs.ids for own in ("weight", "bias")}
    return found


def _numbered(
    parameters: Mapping[str, Tensor],
    written: Mapping[str, Tensor],
    read: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    stays: Tensor,
) -> Coupling:
    """Number the channels of the flow that may be pruned, group by group."""
    rows, count = {}, len(stays)
    for name, parameter in parameters.items():
        own = torch.arange(count, count + len(parameter))
        rows[name] = written.get(name, own)
        count += 0 if name in written else len(own)
    prunable = torch.cat([~stays, torch.ones(count - len(stays), dtype=torch.bool)])
    members = _groups({name: sorted(set(channels[prunable[channels]].tolist())) for name, channels in rows.items()})
    numbers = torch.full((count,), STAYS)
    numbers[torch.tensor([channel for group in members.values() for channel in group], dtype=torch.long)] = (
        torch.arange(sum(map(len, members.values())))
    )
    groups = {name: numbers[torch.tensor(group)] for name, group in members.items()}
    columns = {name: read[name] for name in parameters if name in read}
    columns, rows, vectors = (
        {name: numbers[channels] for name, channels in side.items()} for side in (columns, rows, vectors)
    )
    prunable_vectors = {name: channels for name, channels in vectors.items() if bool((channels != STAYS).any())}
    return Coupling(groups, rows, columns, prunable_vectors)


def _groups(channels: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the channels that weights write to, by group: weights with a channel in common are in one group."""
    group_of: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for name, own in channels.items():
        joined = list(dict.fromkeys(group_of[channel] for channel in own if channel in group_of))
        first, *others = joined or [name]
        added = [channel for channel in own if channel not in group_of]
        for channel in [*(channel for other in others for channel in groups.pop(other)), *added]:
            groups.setdefault(first, []).append(channel)
            group_of[channel] = first
    return groups
