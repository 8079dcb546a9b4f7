"""Layers in place of the functions that do the same, so that compaction knows what they do to channels.

The class of a layer may have a forward of its own, such as a BatchNorm of timm that applies an activation as well. Such
a forward is traced inside, and then calls functions such as `F.batch_norm` with the parameters of the module.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    F.linear: ("input", "weight", "bias"),
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.conv1d: _CONVOLUTION,
    F.conv2d: _CONVOLUTION,
    F.conv3d: _CONVOLUTION,
}
_TENSORS = ("weight", "bias", "running_mean", "running_var")


def use_layers_(network: fx.GraphModule, source: nn.Module, values: dict[fx.Node, Any]) -> None:
    """Replace functions that compute with the parameters of one module alone by layers of the module's name, in place.

    A function stays as it is if the parameters are also used elsewhere, or if it computes with other numbers.

    Args:
        network: the traced network. Its parameters keep their names.
        source: the network that was traced.
        values: the value of each node, to which those of new nodes are added.
    """
    uses: Counter[str] = Counter()
    for node in network.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] += len(node.users)
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target in _ARGUMENTS:
            given = dict(zip(_ARGUMENTS[node.target], node.args, strict=False)) | node.kwargs
            owner = _find_owner(given, uses)
            if owner is not None:
                layer = _make_layer(node.target, given, network.get_submodule(owner), values[node].ndim)
                _adopt_(layer, network.get_submodule(owner), source.get_submodule(owner))
                network.set_submodule(owner, layer)
                with network.graph.inserting_before(node):
                    called = network.graph.call_module(owner, (given["input"],))
                values[called] = values[node]
                node.replace_all_uses_with(called)
                network.graph.erase_node(node)


def _find_owner(given: dict[str, Any], uses: Counter[str]) -> str | None:
    """Return the name of the module whose parameters a function computes with; None if it computes with others too."""
    tensors = {name: given[name] for name in _TENSORS if given.get(name) is not None}
    others = [value for name, value in given.items() if name not in tensors and name != "input"]
    if any(isinstance(value, fx.Node) for value in others) or given.get("training"):
        return None
    owners = set()
    for name, node in tensors.items():
        owner, _, attribute = str(getattr(node, "target", "")).rpartition(".")
        if not isinstance(node, fx.Node) or node.op != "get_attr" or attribute != name or uses[str(node.target)] > 1:
            return None
        owners.add(owner)
    needed = {"running_mean", "running_var"} if "running_mean" in given else {"weight"}
    return owners.pop() or None if len(owners) == 1 and needed <= tensors.keys() else None


def _make_layer(function: Callable[..., Any], given: dict[str, Any], holder: nn.Module, ndim: int) -> nn.Module:
    """Return a layer that does what a function does, without parameters."""
    tensors = dict(holder.named_parameters(recurse=False)) | dict(holder.named_buffers(recurse=False))
    if function is F.batch_norm:
        norm: Callable[..., nn.Module] = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(ndim, nn.BatchNorm1d)
        affine = given.get("weight") is not None
        return norm(len(tensors["running_mean"]), given.get("eps", 1e-5), affine=affine, device="meta")
    weight, has_bias = tensors["weight"], given.get("bias") is not None
    if function is F.layer_norm:
        return nn.LayerNorm(given["normalized_shape"], given.get("eps", 1e-5), bias=has_bias, device="meta")
    if function is F.linear:
        return nn.Linear(weight.shape[1], len(weight), has_bias, device="meta")
    options = {name: given[name] for name in ("stride", "padding", "dilation", "groups") if name in given}
    fan_in, kernel = weight.shape[1] * options.get("groups", 1), tuple(weight.shape[2:])
    kind: Callable[..., nn.Module] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.ndim]
    return kind(fan_in, len(weight), kernel, bias=has_bias, device="meta", **options)


def _adopt_(layer: nn.Module, holder: nn.Module, source: nn.Module) -> None:
    """Give a layer the tensors and submodules of the module in whose place it comes."""
    for name, _ in list(layer.named_parameters()):
        layer.register_parameter(name, None)
    for name, parameter in holder.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    for name, buffer in holder.named_buffers(recurse=False):
        layer.register_buffer(name, buffer)
    for name, child in holder.named_children():
        layer.add_module(name, child)
    if isinstance(getattr(layer, "num_batches_tracked", None), Tensor):
        counted = getattr(source, "num_batches_tracked", None)
        layer.num_batches_tracked = counted if isinstance(counted, Tensor) else torch.tensor(0)
    layer.eval()
