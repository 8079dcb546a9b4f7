"""The removal of channels from a traced network."""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from spl.export.compaction import operations
from spl.export.compaction.channel_flow import ChannelFlow
from spl.export.compaction.channels import Convolution, LayerChannels, has_border, is_depthwise
from spl.export.compaction.liveness import Liveness
from spl.export.compaction.partial_sums import PartialSum, Sum
from spl.export.compaction.tracing import Traced
from spl.functional.torch_private import BatchNorm


@torch.no_grad()
def shrink_(flow: ChannelFlow, liveness: Liveness) -> None:
    """Remove the channels that need not stay from the modules and the graph of the traced network, in place."""
    for layer in flow.layers:
        _fold_constants_(layer, liveness)
        _shrink_layer_(layer, liveness)
    for node in list(flow.traced.network.graph.nodes):
        channels, module = flow.channels[node], flow.traced.module(node)
        if channels is None:
            continue
        if isinstance(module, BatchNorm):
            module.num_features = _shrink_channelwise_(module, liveness.is_kept(channels.ids))
        elif isinstance(module, Convolution) and is_depthwise(module):
            module.groups = module.in_channels = module.out_channels = _shrink_channelwise_(
                module, liveness.is_kept(channels.ids)
            )
        elif operations.called(node) is F.pad:
            _shrink_padding_(node, liveness.is_kept(channels.ids), channels.axis, flow.traced.values[node].ndim)
        elif operations.called(node) in operations.RESHAPES and node not in flow.split_heads:
            with flow.traced.network.graph.inserting_after(node):
                flat = flow.traced.network.graph.call_function(torch.flatten, (node.args[0], 1))
            node.replace_all_uses_with(flat)
        elif node.op == "get_attr":
            _shrink_attribute_(flow.traced.network, str(node.target), liveness.is_kept(channels.ids), channels.axis)
    for heads, after in flow.split_heads.values():
        heads.shrink_(liveness.is_kept(after.ids))
    for norm in flow.norms:
        if not bool((kept := liveness.is_kept(norm.inputs.ids)).all()):
            flow.traced.network.set_submodule(norm.name, norm.without(kept))
    for added in flow.sums:
        _narrow_sum_(added, flow.traced, liveness)
    for attention in flow.attentions:
        attention.replace_(flow.traced)
    flow.traced.eliminate_dead_code()
    flow.traced.network.delete_all_unused_submodules()
    flow.traced.network.recompile()


def _fold_constants_(layer: LayerChannels, liveness: Liveness) -> None:
    """Move the contribution of the constant inputs that are removed into the bias, or to the carrier."""
    if layer.inputs is None:
        return
    module, constants = layer.module, layer.inputs.constants.nan_to_num()
    constants = constants.masked_fill(liveness.is_kept(layer.inputs.ids), 0.0)
    if layer.name in liveness.carriers:
        column = liveness.carriers[layer.name]
        shares = (constants / layer.inputs.constants[column]).to(module.weight.device)
        moved = torch.einsum("oi...,i->o...", module.weight.double(), shares)
        module.weight[:, column] += moved.to(module.weight)
    elif bool((constants != 0).any()) and not has_border(layer.module):
        moved = (layer.sums @ constants).to(module.weight.device)
        bias = moved if module.bias is None else module.bias + moved
        module.bias = nn.Parameter(bias.to(module.weight), requires_grad=module.weight.requires_grad)


def _shrink_layer_(layer: LayerChannels, liveness: Liveness) -> None:
    """Remove rows and columns of a layer."""
    module = layer.module
    rows, columns = liveness.is_kept(layer.ids), torch.ones(module.weight.shape[1], dtype=torch.bool)
    if layer.inputs is not None:
        columns = liveness.is_kept(layer.inputs.ids)[: len(columns)]  # the same of all groups
    if bool(rows.all()) and bool(columns.all()):
        return
    _replace_(module, "weight", module.weight[rows.to(module.weight.device)][:, columns.to(module.weight.device)])
    if module.bias is not None:
        _replace_(module, "bias", module.bias[rows.to(module.bias.device)])
    ends = ("in_features", "out_features") if isinstance(module, nn.Linear) else ("in_channels", "out_channels")
    for end, kept in zip(ends, (int(columns.sum()) * getattr(module, "groups", 1), int(rows.sum())), strict=True):
        setattr(module, end, kept)


def _shrink_channelwise_(module: nn.Module, kept: Tensor) -> int:
    """Remove channels from a module whose tensors have one element or kernel per channel; return how many are left."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.ndim:
            _replace_(module, name, tensor[kept.to(tensor.device)])
    return int(kept.sum())


def _replace_(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    setattr(module, name, new)


def _shrink_attribute_(network: nn.Module, name: str, kept: Tensor, axis: int) -> None:
    """Remove channels from a parameter or buffer that the network itself reads."""
    path, _, own = name.rpartition(".")
    owner = network.get_submodule(path)
    tensor = getattr(owner, own)
    _replace_(owner, own, tensor.index_select(axis, kept.nonzero()[:, 0].to(tensor.device)))


def _shrink_padding_(node: fx.Node, kept: Tensor, axis: int, ndim: int) -> None:
    """Pad with fewer channels."""
    amounts = [*node.args[1]]  # type: ignore[misc]
    place = 2 * (ndim - 1 - axis)  # the amounts are pairs, beginning with the last axis
    if place < len(amounts):
        before, after = amounts[place : place + 2]
        amounts[place : place + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
        node.update_arg(1, tuple(amounts))


def _narrow_sum_(added: Sum, traced: Traced, liveness: Liveness) -> None:
    """Replace a sum by one of the channels that its addends have, and of constants; drop constant addends."""
    kept = liveness.is_kept(added.total.ids)
    if all(torch.equal(liveness.is_kept(channels.ids), kept) for channels in added.addends):
        return
    inputs, places = [], []
    constants = torch.zeros(len(kept), dtype=torch.float64)
    whole = added.addends[0] if not added.total.varies[kept].any() else None  # it gives the sum its size
    # the inputs may be partial sums by now
    for value, channels in zip(added.node.all_input_nodes, added.addends, strict=True):
        has = liveness.is_kept(channels.ids)
        if channels is whole or bool(channels.varies[kept].any()):
            inputs.append(value)
            places.append((kept.cumsum(0) - 1).masked_fill(~kept, -1)[has])
            constants += channels.constants.masked_fill(has, 0.0)
        else:
            constants += channels.constants
    network, name, example = traced.network, f"sum_{added.node.name}", traced.values[added.node]
    module = PartialSum(constants[kept].to(example.dtype), places, added.total.axis)
    network.add_module(name, module.to(example.device))
    with network.graph.inserting_before(added.node):
        added.node.replace_all_uses_with(network.graph.call_module(name, tuple(inputs)))
