"""The channels of all values of a network: which belong together, and which are constant."""

from collections import Counter
from dataclasses import replace
from typing import Any

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
    is_depthwise,
    normalized,
)
from spl.export.compaction.partial_sums import Sum
from spl.export.compaction.tracing import Traced
from spl.functional.torch_private import BatchNorm


class ChannelFlow:
    """The channels of every value, from the first operation to the last.

    Args:
        traced: the network, with pruned weights of 0.

    Attributes:
        channels: the channels of each node's value; None where they stay as they are.
        layers: the layers whose rows may be removed, in the order of execution.
        ties: pairs of ids that are kept or removed together.
        sums: the sums whose addends need not have all channels of the sum.
        pins: the ids that stay, and the reasons.
        id_count: number of ids.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.channels: dict[fx.Node, ValueChannels | None] = {}
        self.layers: list[LayerChannels] = []
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.sums: list[Sum] = []
        self.pins: list[tuple[Tensor, str]] = []
        self.id_count = 0
        self._shared = _shared_modules(traced)
        for node in traced.network.graph.nodes:
            self.channels[node] = self._channels_after(node)

    def _channels_after(self, node: fx.Node) -> ValueChannels | None:
        module, target = self.traced.module(node), operations.called(node)
        inputs = self.channels.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        overwrites = operations.is_in_place(node, module) and any(len(a.users) > 1 for a in node.all_input_nodes)
        if overwrites or module in self._shared:
            return self._pin_inputs(node)
        if isinstance(module, ShrinkableLayer) and self._is_plain(node, module) and getattr(module, "groups", 1) == 1:
            return self._layer(node, module, inputs)
        if target in operations.CONCATENATIONS:
            return self._concatenated(node)
        if inputs is not None and (isinstance(module, nn.Flatten) or target in operations.RESHAPES):
            return self._reshaped(node, inputs)
        if inputs is None or len(node.all_input_nodes) > 1:
            return self._combined(node) if target in operations.COMBINING_CALLS else self._pin_inputs(node)
        if operations.is_elementwise(node, module):
            return self._applied(node)
        return self._positional(node, module, inputs) or self._pin_inputs(node)

    def _positional(self, node: fx.Node, module: nn.Module | None, inputs: ValueChannels) -> ValueChannels | None:
        """Return the channels after an operation that treats channels alike, but not positions; None for others."""
        value = self.traced.values[node.all_input_nodes[0]]
        target = operations.called(node)
        if isinstance(module, BatchNorm) and inputs.axis == 1:
            return normalized(module, inputs)
        if isinstance(module, Convolution) and is_depthwise(module) and self._is_plain(node, module):
            return convolved(module, inputs) if inputs.axis == 1 else None
        if isinstance(module, operations.POOLINGS) or target in operations.POOLING_CALLS:
            plain = isinstance(self.traced.values[node], Tensor) and inputs.axis == 1
            changes = operations.changes_constants(node, module)
            return (inputs.bordered_by(0.0) if changes else inputs) if plain else None
        if target in operations.MEANS:
            return _averaged(node, inputs, value.ndim)
        if target is F.pad:
            return self._padded(node, inputs, value.ndim)
        return None

    def _pin_inputs(self, node: fx.Node) -> ValueChannels | None:
        """Pin the inputs of an operation that is unknown, or that reads all channels together."""
        why = "the network's outputs" if node.op == "output" else f"read by {_operation_name(node, self.traced)}"
        for argument in node.all_input_nodes:
            channels = self.channels[argument]
            if channels is not None and not operations.reads_shape_only(node, channels.axis):
                self.pins.append((channels.ids, why))
        return None

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
        layer = LayerChannels(str(node.target), module, inputs, self._new_ids(len(module.weight)))
        self.layers.append(layer)
        return ValueChannels(layer.ids, layer.emitted, axis)

    def _combined(self, node: fx.Node) -> ValueChannels | None:
        """Return the channels after a sum or product of two values, channel by channel."""
        given = [self.channels[argument] for argument in node.all_input_nodes]
        known = [channels for channels in given if channels is not None]
        axes = {self.traced.values[argument].ndim for argument in node.all_input_nodes if len(known) == len(given)}
        if len(axes) != 1 or len({(channels.axis, len(channels.ids)) for channels in known}) != 1:
            return self._pin_inputs(node)
        if len(known) == 2 and operations.is_plain_sum(node, self.traced.values):
            return self._summed(node, *known)
        for other in known[1:]:
            self.ties.append((known[0].ids, other.ids))
        return self._applied(node)

    def _summed(self, node: fx.Node, a: ValueChannels, b: ValueChannels) -> ValueChannels:
        """Return the channels after a sum, each addend of which needs only the channels that vary in it."""
        both = a.varies & b.varies
        self.ties.append((a.ids[both], b.ids[both]))
        ids = torch.where(a.varies, a.ids, torch.where(b.varies, b.ids, self._new_ids(len(a.ids))))
        total = replace(self._applied(node), ids=ids)
        self.sums.append(Sum(node, (a, b), total))
        return total

    def _applied(self, node: fx.Node) -> ValueChannels:
        """Return the channels after an elementwise function; they are constant where all of its inputs are."""
        given = {argument: self.channels[argument] for argument in node.all_input_nodes}
        constants = {argument: channels.constants for argument, channels in given.items() if channels is not None}
        known = ~torch.stack(list(constants.values())).isnan().any(0)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: constants[argument][known])
        target: Any = self.traced.module(node) or node.target
        result = getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
        first = next(channels for channels in given.values() if channels is not None)
        after = torch.full_like(first.constants, torch.nan).masked_scatter(known, result)
        return replace(first, constants=after.masked_fill(~after.isfinite(), torch.nan))

    def _reshaped(self, node: fx.Node, inputs: ValueChannels) -> ValueChannels | None:
        """Return the channels after flattening, which makes a channel of each position of a channel."""
        before, after = self.traced.values[node.all_input_nodes[0]], self.traced.values[node]
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
        return _joined(known)

    def _padded(self, node: fx.Node, inputs: ValueChannels, ndim: int) -> ValueChannels | None:
        padding = operations.channel_padding(node, ndim, inputs.axis)
        if padding is None:
            return None
        counts, fill, elsewhere = padding
        inner = inputs.bordered_by(fill) if elsewhere else inputs
        before, after = (ValueChannels(self._new_ids(n), torch.full((n,), fill).double(), inputs.axis) for n in counts)
        return _joined([before, inner, after])


def _joined(parts: list[ValueChannels]) -> ValueChannels:
    ids, constants = torch.cat([p.ids for p in parts]), torch.cat([p.constants for p in parts])
    return ValueChannels(ids, constants, parts[0].axis)


def _averaged(node: fx.Node, inputs: ValueChannels, ndim: int) -> ValueChannels | None:
    found = operations.mean_axes(node, ndim)
    if found is None or {0, inputs.axis} & set(found[0]):
        return None
    axes, keeps = found
    return inputs if keeps else replace(inputs, axis=inputs.axis - sum(axis < inputs.axis for axis in axes))


def _shared_modules(traced: Traced) -> set[nn.Module]:
    """Return the modules with parameters that are used in more than one place."""
    uses = Counter(str(node.target) for node in traced.network.graph.nodes if node.op == "call_module")
    owners = Counter(id(p) for module in traced.network.modules() for p in module.parameters(recurse=False))
    owners.update(id(traced.values[node]) for node in traced.network.graph.nodes if node.op == "get_attr")
    called = {name: traced.network.get_submodule(name) for name in uses}
    return {
        module
        for name, module in called.items()
        if any(uses[name] > 1 or owners[id(p)] > 1 for p in module.parameters())
    }


def _operation_name(node: fx.Node, traced: Traced) -> str:
    module = traced.module(node)
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(getattr(node.target, "__name__", node.target))
