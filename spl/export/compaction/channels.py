"""What each operation of a network does to channels: which they are, and which of them emit a constant."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spl.export.compaction import operations
from spl.export.compaction.tracing import Traced

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Channels:
    """Those of one value [N, ..., C, ...].

    Attributes:
        ids: long [C]; equal where channels come and go together, such as the two that a sum adds.
        constants: float64 [C], what a channel is for every input and at every position; NaN where it varies.
        axis: where they lie.
    """

    ids: Tensor
    constants: Tensor
    axis: int

    @property
    def varies(self) -> Tensor:
        """Bool [C]."""
        return self.constants.isnan()

    def bordered_by(self, fill: float) -> "Channels":
        """With numbers beside them, from which all others now vary."""
        return replace(self, constants=self.constants.masked_fill(self.constants != fill, torch.nan))


@dataclass(frozen=True)
class LayerChannels:
    """A Linear layer or convolution: its columns read channels, its rows make others.

    Attributes:
        name: of the module.
        module: the layer.
        inputs: None where the columns stay as they are.
        outputs: of the rows.
    """

    name: str
    module: Layer
    inputs: Channels | None
    outputs: Channels

    @cached_property
    def reads(self) -> Tensor:
        """Bool [out, in]: in which row an input has a weight other than 0."""
        return (_taps(self.module) != 0).any(-1)

    @cached_property
    def sums(self) -> Tensor:
        """float64 [out, in]: what each input is multiplied by where it is the same at all taps."""
        return _taps(self.module).double().sum(-1)

    @property
    def borders(self) -> bool:
        """Whether it reads zeros beyond the border, so that nothing but 0 is constant to it."""
        layer = self.module
        if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
            return False
        return max(layer.kernel_size) > 1 if layer.padding == "same" else any(layer.padding)


class ChannelFlow:
    """Every value's channels, from the first operation to the last.

    Args:
        traced: the network, its pruned weights 0.

    Attributes:
        channels: of each node; None where they stay as they are.
        layers: those whose rows may go, in the order of execution.
        ties: pairs of ids that come and go together.
        pins: ids that stay, and why.
        count: of the ids.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.channels: dict[fx.Node, Channels | None] = {}
        self.layers: list[LayerChannels] = []
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.pins: list[tuple[Tensor, str]] = []
        self.count = 0
        self._shared = _shared_modules(traced)
        for node in traced.network.graph.nodes:
            self.channels[node] = self._after(node)

    def _after(self, node: fx.Node) -> Channels | None:
        module, target = self.traced.module(node), operations.called(node)
        inputs = self.channels.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        overwrites = operations.is_in_place(node, module) and any(len(a.users) > 1 for a in node.all_input_nodes)
        if overwrites or module in self._shared:
            return self._stays(node)
        if isinstance(module, Layer) and self._is_plain(node, module):
            return self._layer(node, module, inputs)
        if target in operations.CONCATENATIONS:
            return self._concatenated(node)
        if inputs is not None and (isinstance(module, nn.Flatten) or target in operations.RESHAPES):
            return self._reshaped(node, inputs)
        if inputs is None or len(node.all_input_nodes) > 1:
            return self._combined(node) if target in operations.COMBINING_CALLS else self._stays(node)
        if isinstance(module, operations.ELEMENTWISE) or target in operations.ELEMENTWISE_CALLS:
            return self._elementwise(node)
        if target in operations.COMBINING_CALLS:
            return self._elementwise(node)
        return self._positional(node, module, inputs) or self._stays(node)

    def _positional(self, node: fx.Node, module: nn.Module | None, inputs: Channels) -> Channels | None:
        """After what treats every channel alike, but not every position; None for anything else."""
        value = self.traced.values[node.all_input_nodes[0]]
        target = operations.called(node)
        if isinstance(module, _BatchNorm) and inputs.axis == 1:
            return replace(inputs, constants=_normalized(module, inputs.constants))
        if isinstance(module, operations.POOLINGS) or target in operations.POOLING_CALLS:
            plain = isinstance(self.traced.values[node], Tensor) and inputs.axis == 1
            border = operations.averages_zeros_in(node, module)
            return (inputs.bordered_by(0.0) if border else inputs) if plain else None
        if target in operations.MEANS:
            return _averaged(node, inputs, value.ndim)
        if target is F.pad:
            return self._padded(node, inputs, value.ndim)
        return None

    def _stays(self, node: fx.Node) -> Channels | None:
        """Pin what the node reads: nothing is known of it, or it reads all channels together."""
        why = "the network's outputs" if node.op == "output" else f"read by {_called(node, self.traced)}"
        for argument in node.all_input_nodes:
            channels = self.channels[argument]
            if channels is not None and not operations.reads_shape_only(node, channels.axis):
                self.pins.append((channels.ids, why))
        return None

    def _new(self, constants: Tensor, axis: int) -> Channels:
        ids = torch.arange(self.count, self.count + len(constants))
        self.count += len(constants)
        return Channels(ids, constants, axis)

    def _is_plain(self, node: fx.Node, layer: Layer) -> bool:
        """Whether it has a weight of its own, which reads all channels of a batch for every output."""
        batched = isinstance(layer, nn.Linear) or self.traced.values[node].ndim == layer.weight.ndim
        return batched and getattr(layer, "groups", 1) == 1 and "weight" in dict(layer.named_parameters())

    def _layer(self, node: fx.Node, module: Layer, inputs: Channels | None) -> Channels:
        axis = self.traced.values[node].ndim - 1 if isinstance(module, nn.Linear) else 1
        if inputs is not None and inputs.axis != axis:
            self._stays(node)
            inputs = None
        layer = LayerChannels(str(node.target), module, inputs, self._new(torch.empty(len(module.weight)), axis))
        outputs = replace(layer.outputs, constants=_emitted(layer))
        self.layers.append(replace(layer, outputs=outputs))
        return outputs

    def _elementwise(self, node: fx.Node) -> Channels | None:
        if node.kwargs.get("training"):
            return self._stays(node)
        return self._applied(node)

    def _combined(self, node: fx.Node) -> Channels | None:
        """After a sum or product of two values, channel by channel."""
        given = [self.channels[argument] for argument in node.all_input_nodes]
        known = [channels for channels in given if channels is not None]
        axes = {self.traced.values[argument].ndim for argument in node.all_input_nodes if len(known) == len(given)}
        if len(axes) != 1 or len({(channels.axis, len(channels.ids)) for channels in known}) != 1:
            return self._stays(node)
        for other in known[1:]:
            self.ties.append((known[0].ids, other.ids))
        return self._applied(node)

    def _applied(self, node: fx.Node) -> Channels:
        """After the function that the node calls, of the constants where all that it reads are."""
        given = {argument: self.channels[argument] for argument in node.all_input_nodes}
        constants = {argument: channels.constants for argument, channels in given.items() if channels is not None}
        known = ~torch.stack(list(constants.values())).isnan().any(0)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: constants[argument][known])
        target: Any = self.traced.module(node) or node.target
        result = getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
        first = next(channels for channels in given.values() if channels is not None)
        after = torch.full_like(first.constants, torch.nan).masked_scatter(known, result)
        return replace(first, constants=after.masked_fill(~after.isfinite(), torch.nan))

    def _reshaped(self, node: fx.Node, inputs: Channels) -> Channels | None:
        """After flattening, which makes each channel as many as it has positions."""
        before, after = self.traced.values[node.all_input_nodes[0]], self.traced.values[node]
        if inputs.axis != 1 or after.shape != (len(before), before[0].numel()):
            return self._stays(node)
        positions = before[0, 0].numel()
        ids, constants = (t.repeat_interleave(positions) for t in (inputs.ids, inputs.constants))
        return Channels(ids, constants, 1)

    def _concatenated(self, node: fx.Node) -> Channels | None:
        parts = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else ()
        given = [self.channels[part] for part in parts if isinstance(part, fx.Node)]
        known = [channels for channels in given if channels is not None]
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if len(known) < len(parts) or {channels.axis for channels in known} != {axis}:
            return self._stays(node)
        return _joined(known)

    def _padded(self, node: fx.Node, inputs: Channels, ndim: int) -> Channels | None:
        padding = operations.channel_padding(node, ndim, inputs.axis)
        if padding is None:
            return None
        counts, fill, elsewhere = padding
        before, after = (self._new(torch.full((n,), fill, dtype=torch.float64), inputs.axis) for n in counts)
        return _joined([before, inputs.bordered_by(fill) if elsewhere else inputs, after])


def _joined(parts: list[Channels]) -> Channels:
    ids, constants = torch.cat([p.ids for p in parts]), torch.cat([p.constants for p in parts])
    return Channels(ids, constants, parts[0].axis)


def _shared_modules(traced: Traced) -> set[nn.Module]:
    """Those with parameters that are used in more than one place."""
    uses = Counter(str(node.target) for node in traced.network.graph.nodes if node.op == "call_module")
    owners = Counter(id(p) for module in traced.network.modules() for p in module.parameters(recurse=False))
    owners.update(id(traced.values[node]) for node in traced.network.graph.nodes if node.op == "get_attr")
    called = {name: traced.network.get_submodule(name) for name in uses}
    return {
        module
        for name, module in called.items()
        if any(uses[name] > 1 or owners[id(p)] > 1 for p in module.parameters())
    }


def _called(node: fx.Node, traced: Traced) -> str:
    module = traced.module(node)
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(getattr(node.target, "__name__", node.target))


def _taps(layer: Layer) -> Tensor:
    """The weight as [out, in, taps], on the CPU."""
    weight = layer.weight.detach().cpu()
    return weight.reshape(*weight.shape[:2], -1)


def _emitted(layer: LayerChannels) -> Tensor:
    """The constants of a layer's rows: the bias of those that read nothing, or constants alone."""
    bias = layer.module.bias
    start = torch.zeros(len(layer.sums), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
    if layer.inputs is None:
        return start.masked_fill(layer.reads.any(1), torch.nan)
    inputs = layer.inputs.bordered_by(0.0) if layer.borders else layer.inputs
    constants = start + layer.sums @ inputs.constants.nan_to_num()
    return constants.masked_fill((layer.reads & inputs.varies).any(1), torch.nan)


def _normalized(norm: _BatchNorm, constants: Tensor) -> Tensor:
    """Constants after BatchNorm; they vary where it normalizes by each batch's own statistics."""
    if norm.running_mean is None or norm.running_var is None:
        return torch.full_like(constants, torch.nan)
    state = {name: t.detach().double().cpu() for name, t in [*norm.named_parameters(), *norm.named_buffers()]}
    scale = (state["running_var"] + norm.eps).rsqrt() * state.get("weight", torch.ones(1))
    return (constants - state["running_mean"]) * scale + state.get("bias", torch.zeros(1))


def _averaged(node: fx.Node, inputs: Channels, ndim: int) -> Channels | None:
    found = operations.mean_axes(node, ndim)
    if found is None or {0, inputs.axis} & set(found[0]):
        return None
    axes, keeps = found
    return inputs if keeps else replace(inputs, axis=inputs.axis - sum(axis < inputs.axis for axis in axes))
