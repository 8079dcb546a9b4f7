"""A network without the channels that can go."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spl.export.compaction import operations
from spl.export.compaction.channels import Convolution, LayerChannels, has_border, is_depthwise
from spl.export.compaction.flow import ChannelFlow
from spl.export.compaction.liveness import Liveness


@torch.no_grad()
def shrink_(flow: ChannelFlow, live: Liveness) -> None:
    """Remove them from the modules and the graph of the traced network, in place."""
    for layer in flow.layers:
        _fold_(layer, live)
        _select_(layer, live)
    for node in list(flow.traced.network.graph.nodes):
        channels, module = flow.channels[node], flow.traced.module(node)
        if channels is None:
            continue
        if isinstance(module, _BatchNorm):
            module.num_features = _select_each_(module, live.of(channels.ids))
        elif isinstance(module, Convolution) and is_depthwise(module):
            module.groups = module.in_channels = module.out_channels = _select_each_(module, live.of(channels.ids))
        elif operations.called(node) is F.pad:
            _repad_(node, live.of(channels.ids), channels.axis, flow.traced.values[node].ndim)
        elif operations.called(node) in operations.RESHAPES:
            with flow.traced.network.graph.inserting_after(node):
                flat = flow.traced.network.graph.call_function(torch.flatten, (node.args[0], 1))
            node.replace_all_uses_with(flat)
    _write_constants_(flow, live)
    flow.traced.network.graph.eliminate_dead_code()
    flow.traced.network.delete_all_unused_submodules()
    flow.traced.network.recompile()


def _fold_(layer: LayerChannels, live: Liveness) -> None:
    """Move what the constant inputs that go contribute to the outputs: into the bias, or to the carrier."""
    if layer.inputs is None:
        return
    module, constants = layer.module, layer.inputs.constants.nan_to_num()
    constants = constants.masked_fill(live.of(layer.inputs.ids), 0.0)
    if layer.name in live.carriers:
        column = live.carriers[layer.name]
        shares = (constants / layer.inputs.constants[column]).to(module.weight.device)
        moved = torch.einsum("oi...,i->o...", module.weight.double(), shares)
        module.weight[:, column] += moved.to(module.weight)
    elif bool((constants != 0).any()) and not has_border(layer.module):
        moved = (layer.sums @ constants).to(module.weight.device)
        bias = moved if module.bias is None else module.bias + moved
        module.bias = nn.Parameter(bias.to(module.weight), requires_grad=module.weight.requires_grad)


def _select_(layer: LayerChannels, live: Liveness) -> None:
    """Drop its rows and columns."""
    module = layer.module
    rows, columns = live.of(layer.ids), torch.ones(module.weight.shape[1], dtype=torch.bool)
    if layer.inputs is not None:
        columns = live.of(layer.inputs.ids)
    if bool(rows.all()) and bool(columns.all()):
        return
    _replace_(module, "weight", module.weight[rows.to(module.weight.device)][:, columns.to(module.weight.device)])
    if module.bias is not None:
        _replace_(module, "bias", module.bias[rows.to(module.bias.device)])
    ends = ("in_features", "out_features") if isinstance(module, nn.Linear) else ("in_channels", "out_channels")
    for end, kept in zip(ends, (columns, rows), strict=True):
        setattr(module, end, int(kept.sum()))


def _select_each_(module: nn.Module, kept: Tensor) -> int:
    """Drop channels of all that a module has one of for each; how many are left."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.ndim:
            _replace_(module, name, tensor[kept.to(tensor.device)])
    return int(kept.sum())


def _replace_(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    setattr(module, name, new)


def _repad_(node: fx.Node, kept: Tensor, axis: int, ndim: int) -> None:
    """Append fewer channels."""
    amounts = [*node.args[1]]  # type: ignore[misc]
    place = 2 * (ndim - 1 - axis)  # pairs of numbers, of the last axis first
    if place < len(amounts):
        before, after = amounts[place : place + 2]
        amounts[place : place + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
        node.update_arg(1, tuple(amounts))


def _write_constants_(flow: ChannelFlow, live: Liveness) -> None:
    """Give sums the constants that they add, in place of what computes them: a block that is dead goes whole."""
    network, graph = flow.traced.network, flow.traced.network.graph
    for node in list(graph.nodes):
        added = [argument for argument in node.all_input_nodes if flow.channels.get(argument) is not None]
        if operations.called(node) not in operations.SUMS or len(added) < 2:
            continue
        for argument, constants in _constant(added, flow, live).items():
            name = f"constant_{argument.name}"
            network.register_buffer(name, constants.to(next(network.parameters())))
            with graph.inserting_before(node):
                node.replace_input_with(argument, graph.get_attr(name))


def _constant(added: list[fx.Node], flow: ChannelFlow, live: Liveness) -> dict[fx.Node, Tensor]:
    """The summands that are constant, as what can be added instead, if another has the size of the sum."""
    found = {}
    for argument in added:
        channels = flow.channels[argument]
        assert channels is not None
        constants = channels.constants[live.of(channels.ids)]
        if not bool(constants.isnan().any()):
            axes = flow.traced.values[argument].ndim - 1 - channels.axis
            found[argument] = constants.view(-1, *(1,) * axes)
    largest = max(flow.traced.values[argument].numel() for argument in added)
    whole = [a for a in added if a not in found and flow.traced.values[a].numel() == largest]
    return found if whole else {}
