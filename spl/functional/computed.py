"""Weights by which no layer multiplies: it multiplies by what it computes from them, as weight standardization does."""

from collections.abc import Container, Iterable, Mapping

from torch import Tensor, nn

from spl.functional.graph import Graph, operation
from spl.functional.torch_private import ConvNd

_SAME_NUMBERS = {
    "Alias", "AsStrided", "Clone", "Expand", "Permute", "Repeat", "Reshape", "ReshapeAlias", "Slice",
    "Split", "SplitWithSizes", "Squeeze", "T", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
"""Operations of autograd's graph that leave numbers as they are."""

_OTHER_NUMBERS = {
    "Abs", "Add", "Clamp", "ClampMin", "CudnnBatchNorm", "Div", "Exp", "LinalgVectorNorm", "MaskedFill", "Mean",
    "Mul", "NativeBatchNorm", "NativeGroupNorm", "NativeLayerNorm", "Neg", "Norm", "Pow", "Rsqrt", "Rsub",
    "Sigmoid", "Sign", "Softmax", "Sqrt", "Std", "StdMean", "Sub", "Sum", "Tanh", "Var", "VarMean", "Where",
}  # fmt: skip
"""Operations that compute other numbers, and no products with activations."""


def computed_from(graph: Graph, parameters: Mapping[str, Tensor], gates: Container[str] = ()) -> list[str]:
    """Return the names of weights that are used only to compute other ones, by which the network then multiplies.

    A weight that is also a factor itself does not count, such as one with a penalty on its size. Neither does one that
    an unknown operation uses.

    Args:
        graph: the graph of the network's outputs or of its loss.
        parameters: weights by name; those of one axis do not count.
        gates: the names of weights that may also be multiplied element by element.

    Example:
        >>> import torch
        >>> from spl.functional.computed import computed_from
        >>> from spl.functional.graph import Graph
        >>> w, x = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
        >>> computed_from(Graph((x @ w.T).sum() + w.square().sum()), {"w": w})
        []
        >>> computed_from(Graph((x @ (w - w.mean(1, keepdim=True)).T).sum()), {"w": w})
        ['w']
    """
    uses = {name: _uses(graph, parameter) for name, parameter in parameters.items() if parameter.ndim > 1}
    return [
        name
        for name, kinds in uses.items()
        if kinds and kinds <= _OTHER_NUMBERS - ({"Mul"} if name in gates else set())
    ]


def _uses(graph: Graph, tensor: Tensor) -> set[str]:
    """Return the names of the operations that use a leaf of the graph, whatever shape it is given before."""
    leaf = graph.leaf(tensor)
    kinds: set[str] = set()
    waiting = [] if leaf is None else [leaf]
    while waiting:
        for user, _ in graph.users(waiting.pop()):
            kind = operation(user)
            if kind in _SAME_NUMBERS:
                waiting.append(user)
            else:
                kinds.add(kind)
    return kinds


def overriding_layers(network: nn.Module, names: Iterable[str]) -> list[str]:
    """Return which weights belong to Linear layers or convolutions with a forward of their own.

    Such a layer may multiply by something else than its weight.

    Example:
        >>> from torch import nn
        >>> from spl.functional.computed import overriding_layers
        >>> class Scaled(nn.Linear):
        ...     def forward(self, x):
        ...         return nn.functional.linear(x, self.weight * 0.1)
        >>> overriding_layers(nn.Sequential(nn.Linear(2, 2), Scaled(2, 2)), ["0.weight", "1.weight"])
        ['1.weight']
    """
    layers = {name: layer for name, layer in network.named_modules() if _overrides(layer)}
    return [name for name in names if name.rpartition(".")[0] in layers and name.rpartition(".")[2] == "weight"]


def _overrides(layer: nn.Module) -> bool:
    if not isinstance(layer, (nn.Linear, ConvNd)):
        return False
    methods = [getattr(type(layer), name, None) for name in ("forward", "_conv_forward")]
    return any(not method.__module__.startswith("torch.") for method in methods if method is not None)
