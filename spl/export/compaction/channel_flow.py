"""The channels of all values of a network: which belong together, and which are constant."""

from dataclasses import replace
from operator import getitem

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spl.export.compaction import operations
from spl.export.compaction.channels import (
    Convolution,
    LayerChannels,
    ShrinkableLayer,
    ValueChannels,
    convolved,
    has_border,
    is_depthwise,
    normalized,
)
from spl.export.compaction.elementwise import applied, averaged, joined, scales_of
from spl.export.compaction.heads import MultiheadChannels, SplitHeads, attended, find_inner_layer, find_split_heads
from spl.export.compaction.layer_norm import NormalizedChannels
from spl.export.compaction.partial_sums import Sum
from spl.export.compaction.tracing import Traced
from spl.functional.torch_private import BatchNorm

OUTPUTS = "the network's outputs"
"""The reason why channels stay that are the outputs of the network."""


class ChannelFlow:
    """The channels of every value, from the first operation to the last.

    Args:
        traced: the network, with pruned weights of 0.

    Attributes:
        channels: the channels of each node's value; None where they stay as they are.
        layers: the layers whose rows may be removed, in the order of execution.
        ties: pairs of ids that are kept or removed together.
        sums: the sums whose addends need not have all channels of the sum.
        norms: the LayerNorms over channels.
        attentions: the modules of attention whose heads may be removed.
        split_heads: the heads that the network splits itself, by the node that joins them.
        head_ids: the ids of the channels of heads, which stay if any channel of their head does.
        pins: the ids that stay, and the reasons.
        id_count: number of ids.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.channels: dict[fx.Node, ValueChannels | None] = {}
        self.layers: list[LayerChannels] = []
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.sums: list[Sum] = []
        self.norms: list[NormalizedChannels] = []
        self.attentions: list[MultiheadChannels] = []
        self.split_heads: dict[fx.Node, tuple[SplitHeads, ValueChannels]] = {}
        self.head_ids: list[Tensor] = []
        self.pins: list[tuple[Tensor, str]] = []
        self.id_count = 0
        self._shared = traced.shared_modules()
        for node in traced.network.graph.nodes:
            self.channels[node] = self._channels_after(node)

    def _channels_after(self, node: fx.Node) -> ValueChannels | None:
        module, target = self.traced.module(node), operations.called(node)
        inputs = self.channels.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if node in self.traced.identities and inputs is not None:
            return inputs
        overwritten = self.traced.overwritten.get(node, [])
        if overwritten or module in self._shared:
            self._pin_inputs(node)
            self._pin_overwritten(overwritten)
            return None
        if isinstance(module, ShrinkableLayer) and self._is_plain(node, module) and not is_depthwise(module):
            return self._layer(node, module, inputs)
        if (inner := find_inner_layer(node, module, self.traced)) is not None:
            return self._attention(node, inner, inputs)
        if node in self.split_heads:
            return self.split_heads[node][1]
        if target is getitem and inputs is not None and isinstance(self.traced.values[node.all_input_nodes[0]], tuple):
            return inputs  # of attention, which returns a tuple; only its first element is read
        if target in operations.CONCATENATIONS:
            return self._concatenated(node)
        if inputs is not None and (isinstance(module, nn.Flatten) or target in operations.RESHAPES):
            return self._reshaped(node, inputs)
        if inputs is None or len(node.all_input_nodes) > 1:
            return self._combined(node) if target in operations.COMBINING_CALLS else self._pin_inputs(node)
        if operations.is_elementwise(node, module):
            return applied(node, self.traced, self.channels)
        return self._positional(node, module, inputs) or self._pin_inputs(node)

    def _positional(self, node: fx.Node, module: nn.Module | None, inputs: ValueChannels) -> ValueChannels | None:
        """Return the channels after an operation that treats channels alike, but not positions; None for others."""
        value = self.traced.values[node.all_input_nodes[0]]
        target = operations.called(node)
        if isinstance(module, BatchNorm) and inputs.axis == 1:
            return normalized(module, inputs)
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and inputs.axis == value.ndim - 1:
            return self._normalized(node, NormalizedChannels(str(node.target), module, inputs))
        if isinstance(module, Convolution) and is_depthwise(module) and self._is_plain(node, module):
            return convolved(module, inputs) if inputs.axis == 1 else None
        if isinstance(module, operations.POOLINGS) or target in operations.POOLING_CALLS:
            plain = isinstance(self.traced.values[node], Tensor) and inputs.axis == 1
            changes = operations.changes_constants(node, module)
            return (inputs.bordered_by(0.0) if changes else inputs) if plain else None
        if target in operations.MEANS:
            return averaged(node, inputs, value.ndim)
        if target is F.pad:
            return self._padded(node, inputs, value.ndim)
        axis = operations.moved_axis(node, value.ndim, inputs.axis)
        return None if axis is None else replace(inputs, axis=axis)

    def _pin_inputs(self, node: fx.Node) -> ValueChannels | None:
        """Pin the inputs of an operation that is unknown, or that reads all channels together."""
        why = OUTPUTS if node.op == "output" else f"read by {self.traced.describe(node)}"
        for argument in node.all_input_nodes:
            channels = self.channels[argument]
            if channels is not None and not operations.reads_shape_only(node, channels.axis):
                self.pins.append((channels.ids, why))
        return None

    def _pin_overwritten(self, nodes: list[fx.Node]) -> None:
        """Pin the channels of values that are overwritten and read again, and forget the constants that they were."""
        for node in nodes:
            if (channels := self.channels[node]) is not None:
                self.pins.append((channels.ids, "overwritten in place and read again"))
                self.channels[node] = channels.varying()

    def _normalized(self, node: fx.Node, norm: NormalizedChannels) -> ValueChannels:
        """Return the channels after LayerNorm, and pin those that are not always 0, because its mean needs them."""
        self.norms.append(norm)
        self.pins.append((norm.inputs.ids[norm.inputs.constants != 0], f"read by {self.traced.describe(node)}"))
        return norm.outputs()

    def _new_ids(self, count: int) -> Tensor:
        """Return new ids."""
        self.id_count += count
        return torch.arange(self.id_count - count, self.id_count)

    def _is_plain(self, node: fx.Node, layer: ShrinkableLayer) -> bool:
        """Return whether a layer has a weight of its own, and reads a batch."""
        batched = isinstance(layer, nn.Linear) or self.traced.values[node].ndim == layer.weight.ndim
        return batched and "weight" in dict(layer.named_parameters())

    def _layer(self, node: fx.Node, module: ShrinkableLayer, inputs: ValueChannels | None) -> ValueChannels:
        axis = self.traced.values[node].ndim - 1 if isinstance(module, nn.Linear) else 1
        if inputs is not None and inputs.axis != axis:
            self._pin_inputs(node)
            inputs = None
        groups = getattr(module, "groups", 1)
        if inputs is not None and groups > 1 and has_border(module):
            inputs = inputs.bordered_by(0.0)  # one channel could not carry the constants to all groups
        layer = LayerChannels(str(node.target), module, inputs, self._new_ids(len(module.weight)))
        self.layers.append(layer)
        for ids in [layer.ids] if inputs is None else [layer.ids, inputs.ids]:
            self._tie_places(ids, groups)
        return ValueChannels(layer.ids, layer.emitted, axis)

    def _attention(self, node: fx.Node, inner: nn.Linear, inputs: ValueChannels | None) -> ValueChannels:
        """Return the channels after an `nn.MultiheadAttention`, whose two layers are `inner` and `out_proj`."""
        module, name = self.traced.module(node), str(node.target)
        assert isinstance(module, nn.MultiheadAttention)
        if inputs is not None and inputs.axis != 2:
            self._pin_inputs(node)
            inputs = None
        in_proj = LayerChannels(name, inner, inputs, self._new_ids(len(inner.weight)), f"{name}.in_proj_")
        self._tie_heads(in_proj.ids, module.num_heads)
        within = attended(ValueChannels(in_proj.ids, in_proj.emitted, 2))
        out_proj = LayerChannels(f"{name}.out_proj", module.out_proj, within, self._new_ids(module.embed_dim))
        self.layers += [in_proj, out_proj]
        self.attentions.append(MultiheadChannels(node, module, in_proj, out_proj))
        return ValueChannels(out_proj.ids, out_proj.emitted, 2)

    def _tie_heads(self, ids: Tensor, heads: int) -> None:
        """Tie all channels of each head, from the ids [3·heads·d] of queries, keys and values."""
        first, *others = ids.view(3, heads, -1).transpose(1, 2).flatten(0, 1)
        self.ties.extend((first, other) for other in others)
        self.head_ids.append(ids)

    def _tie_places(self, ids: Tensor, groups: int) -> None:
        """Tie the channels at the same place of each group, so that all groups stay equally large."""
        first, *others = ids.chunk(groups)
        self.ties.extend((first, other) for other in others)

    def _combined(self, node: fx.Node) -> ValueChannels | None:
        """Return the channels after a sum or product of two values, channel by channel."""
        if (scales := scales_of(node, self.traced, self.channels)) is not None:
            self.channels[scales[0]] = scales[1]
            return applied(node, self.traced, self.channels)
        given = [self.channels[argument] for argument in node.all_input_nodes]
        known = [channels for channels in given if channels is not None]
        axes = {self.traced.values[argument].ndim for argument in node.all_input_nodes if len(known) == len(given)}
        if len(axes) != 1 or len({(channels.axis, len(channels.ids)) for channels in known}) != 1:
            return self._pin_inputs(node)
        if len(known) == 2 and operations.is_plain_sum(node, self.traced.values):
            return self._summed(node, *known)
        for other in known[1:]:
            self.ties.append((known[0].ids, other.ids))
        return applied(node, self.traced, self.channels)

    def _summed(self, node: fx.Node, a: ValueChannels, b: ValueChannels) -> ValueChannels:
        """Return the channels after a sum, each addend of which needs only the channels that vary in it."""
        both = a.varies & b.varies
        self.ties.append((a.ids[both], b.ids[both]))
        ids = torch.where(a.varies, a.ids, torch.where(b.varies, b.ids, self._new_ids(len(a.ids))))
        total = replace(applied(node, self.traced, self.channels), ids=ids)
        self.sums.append(Sum(node, (a, b), total))
        return total

    def _reshaped(self, node: fx.Node, inputs: ValueChannels) -> ValueChannels | None:
        """Return the channels after flattening, which makes a channel of each position of a channel."""
        before, after = self.traced.values[node.all_input_nodes[0]], self.traced.values[node]
        if inputs.axis == before.ndim - 1 and (heads := find_split_heads(node, self.traced)) is not None:
            self._tie_heads(inputs.ids, heads.heads)
            self.split_heads[heads.join] = heads, attended(inputs)
            return None
        if inputs.axis != 1 or after.shape != (len(before), before[0].numel()):
            return self._pin_inputs(node)
        positions = before[0, 0].numel()
        ids, constants = (t.repeat_interleave(positions) for t in (inputs.ids, inputs.constants))
        return ValueChannels(ids, constants, 1)

    def _concatenated(self, node: fx.Node) -> ValueChannels | None:
        parts = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else ()
        given = [self.channels[part] for part in parts if isinstance(part, fx.Node)]
        known = [channels for channels in given if channels is not None]
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if len(known) < len(parts) or {channels.axis for channels in known} != {axis}:
            return self._pin_inputs(node)
        return joined(known)

    def _padded(self, node: fx.Node, inputs: ValueChannels, ndim: int) -> ValueChannels | None:
        padding = operations.channel_padding(node, ndim, inputs.axis)
        if padding is None:
            return None
        counts, fill, elsewhere = padding
        inner = inputs.bordered_by(fill) if elsewhere else inputs
        before, after = (ValueChannels(self._new_ids(n), torch.full((n,), fill).double(), inputs.axis) for n in counts)
        return joined([before, inner, after])
