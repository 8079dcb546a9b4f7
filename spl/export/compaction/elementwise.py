"""The channels after operations that compute each channel by itself, or put channels beside each other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from spl.export.compaction import operations
from spl.export.compaction.channels import ValueChannels
from spl.export.compaction.tracing import Traced

ChannelsByNode = Mapping[fx.Node, ValueChannels | None]


def applied(node: fx.Node, traced: Traced, channels: ChannelsByNode) -> ValueChannels:
    """Return the channels after an elementwise function; they are constant where all of its inputs are."""
    given = {argument: channels[argument] for argument in node.all_input_nodes}
    constants = {argument: own.constants for argument, own in given.items() if own is not None}
    known = ~torch.stack(list(constants.values())).isnan().any(0)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: constants[argument][known])
    target: Any = traced.module(node) or node.target
    result = getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
    first = next(own for node, own in given.items() if own is not None and node.op != "get_attr")
    after = torch.full_like(first.constants, torch.nan).masked_scatter(known, result)
    return replace(first, constants=after.masked_fill(~after.isfinite(), torch.nan))


def scales_of(node: fx.Node, traced: Traced, channels: ChannelsByNode) -> tuple[fx.Node, ValueChannels] | None:
    """Return a tensor of the network that has one number for each channel of the other operand, as channels.

    Layer scales are such tensors. Without one, return None.
    """
    own = [argument for argument in node.all_input_nodes if argument.op == "get_attr" and len(argument.users) == 1]
    values = [argument for argument in node.all_input_nodes if channels[argument] is not None]
    if len(own) != 1 or len(values) != 1:
        return None
    scaled, numbers = channels[values[0]], traced.values[own[0]]
    assert scaled is not None
    axis = scaled.axis - traced.values[values[0]].ndim + numbers.ndim
    if axis < 0 or not numbers.numel() == numbers.shape[axis] == len(scaled.ids):
        return None
    return own[0], ValueChannels(scaled.ids, numbers.detach().double().cpu().flatten(), axis)


def joined(parts: list[ValueChannels]) -> ValueChannels:
    """Return the channels of a concatenation."""
    ids, constants = torch.cat([p.ids for p in parts]), torch.cat([p.constants for p in parts])
    return ValueChannels(ids, constants, parts[0].axis)


def averaged(node: fx.Node, inputs: ValueChannels, ndim: int) -> ValueChannels | None:
    """Return the channels after a mean over positions; None if it is over examples or channels."""
    found = operations.mean_axes(node, ndim)
    if found is None or {0, inputs.axis} & set(found[0]):
        return None
    axes, keeps = found
    return inputs if keeps else replace(inputs, axis=inputs.axis - sum(axis < inputs.axis for axis in axes))
