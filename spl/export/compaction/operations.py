"""Operations that keep channels separate: an output channel depends only on the input channel at its place."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from spl.functional.layers import ACTIVATIONS
from spl.functional.torch_private import AdaptiveAvgPoolNd, AdaptiveMaxPoolNd, AvgPoolNd, DropoutNd, MaxPoolNd

_ELEMENTWISE = (*(kind for kind in ACTIVATIONS if kind is not nn.PReLU), DropoutNd, nn.Identity)
_ELEMENTWISE_CALLS: set[Any] = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardtanh),
    *(F.hardswish, F.hardsigmoid, torch.relu, torch.tanh, torch.sigmoid, torch.clamp, operator.neg),
    F.dropout,
    *("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "clamp", "clamp_", "contiguous", "clone"),
}

COMBINING_CALLS: set[Any] = {
    *(operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div),
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
}

_SUMS: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}

POOLINGS = (MaxPoolNd, AvgPoolNd, AdaptiveAvgPoolNd, AdaptiveMaxPoolNd)
_AVERAGES: set[Any] = {F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}
POOLING_CALLS: set[Any] = {
    *_AVERAGES,
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}

MEANS: set[Any] = {torch.mean, "mean"}
RESHAPES: set[Any] = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_PERMUTATIONS: set[Any] = {torch.permute, "permute"}
_TRANSPOSITIONS: set[Any] = {torch.transpose, "transpose"}
CONCATENATIONS: set[Any] = {torch.cat, torch.concat}


def called(node: fx.Node) -> Any:
    """Return the function, or the name of the method, that a node calls; None where it calls neither."""
    return node.target if node.op in ("call_function", "call_method") else None


def is_elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Return whether a node that reads one value does the same to every number; dropout in training does not."""
    known = called(node) in _ELEMENTWISE_CALLS or called(node) in COMBINING_CALLS
    return (known and not node.kwargs.get("training")) or isinstance(module, _ELEMENTWISE)


def is_plain_sum(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Return whether a node adds two values of the same shape and type."""
    a, b = (values[argument] for argument in node.all_input_nodes)
    return called(node) in _SUMS and not node.kwargs and a.shape == b.shape and a.dtype == b.dtype


def changes_constants(node: fx.Node, module: nn.Module | None) -> bool:
    """Return whether a pooling changes constants, because it averages zeros in or divides by another number."""
    padding: Any = getattr(module, "padding", 0)
    counted, divisor = getattr(module, "count_include_pad", True), getattr(module, "divisor_override", None)
    if node.target in _AVERAGES:
        padding, divisor = _argument(node, 3, "padding", 0), _argument(node, 6, "divisor_override", None)
    elif not isinstance(module, AvgPoolNd):
        return False
    padded = any(padding) if isinstance(padding, (tuple, list)) else bool(padding)
    return (padded and bool(counted)) or divisor is not None


def moved_axis(node: fx.Node, ndim: int, axis: int) -> int | None:
    """Return where a permutation moves an axis; None if the node is no permutation of all axes."""
    if called(node) in _PERMUTATIONS:
        axes = node.args[1] if len(node.args) == 2 and not isinstance(node.args[1], int) else node.args[1:]
        order = [a % ndim for a in axes if isinstance(a, int)] if isinstance(axes, (tuple, list)) else []
    elif called(node) in _TRANSPOSITIONS and len(node.args) == 3:
        order, (a, b) = [*range(ndim)], (int(a) % ndim for a in node.args[1:])  # type: ignore[arg-type]
        order[a], order[b] = b, a
    else:
        return None
    return order.index(axis) if sorted(order) == [*range(ndim)] else None


def mean_axes(node: fx.Node, ndim: int) -> tuple[list[int], bool] | None:
    """Return the axes of a mean, counted from 0, and whether they are kept; None for a mean over all axes."""
    axes = _argument(node, 1, "dim", None)
    listed = [axes] if isinstance(axes, int) else axes
    if not isinstance(listed, (tuple, list)) or not all(isinstance(axis, int) for axis in listed):
        return None
    return [axis % ndim for axis in listed], bool(_argument(node, 2, "keepdim", False))


def channel_padding(node: fx.Node, ndim: int, axis: int) -> tuple[list[int], float, bool] | None:
    """Return the padding of an `F.pad`, or None where it does not fill with a constant.

    Returns:
        The numbers of channels before and after, the fill, and whether other axes are padded too.
    """
    amounts, fill = _argument(node, 1, "pad", None), _argument(node, 3, "value", None)
    plain = isinstance(amounts, (tuple, list)) and all(isinstance(n, int) and n >= 0 for n in amounts)
    if not plain or _argument(node, 2, "mode", "constant") != "constant" or isinstance(fill, fx.Node):
        return None
    numbers = [*amounts, *[0] * (2 * ndim - len(amounts))]
    place = 2 * (ndim - 1 - axis)
    return numbers[place : place + 2], float(fill or 0.0), any(numbers[:place] + numbers[place + 2 :])


def reads_shape_only(node: fx.Node, axis: int) -> bool:
    """Return whether a node reads only what stays when channels are removed.

    That is the number of axes, the type, the device, or the size of another axis.
    """
    if node.target is getattr and node.args[1] == "shape":
        return all(user.target is operator.getitem and _is_other(user.args[1], axis) for user in node.users)
    if node.target is getattr:
        return node.args[1] in ("ndim", "dtype", "device")
    if node.op == "call_method" and node.target == "size":
        return len(node.args) > 1 and _is_other(node.args[1], axis)
    return node.op == "call_method" and node.target == "dim"


def _is_other(place: Any, axis: int) -> bool:
    return isinstance(place, int) and 0 <= place != axis


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
