"""The operations of autograd's graph, sorted by what they do to a signal, and the activations that some of them are."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from spl.functional.graph import operation, sources
from spl.isometry.elementwise import Elementwise

_MOVE = re.compile(
    r"T|Transpose|SwapAxes|Permute|Movedim|View|UnsafeView|ViewAsReal|ViewAsComplex|ReshapeAlias|Reshape|Flatten|ToCopy|"
    r"Copy|Clone|Contiguous|Alias|LiftFresh|Expand|Repeat|RepeatInterleave|Squeeze|Unsqueeze|Slice|Select|Narrow|Split|"
    r"SplitWithSizes|UnsafeSplit|UnsafeSplitWithSizes|Chunk|UnsafeChunk|Unbind|AsStrided|Diagonal|Flip|Roll"
)
"""Operations that only move or cast numbers."""

_KEEP = re.compile(
    r"(Native|Cudnn|Miopen|Fused)?(BatchNorm|LayerNorm|GroupNorm|InstanceNorm|RmsNorm)\w*|SyncBatchNorm|"
    r"(Native|Fused)?Dropout|.*Pool\w*|Mean|Sum|Amax|Upsample\w*|Cat|Stack|Index|IndexSelect|Gather|MaskedFill|Where|"
    r"Scatter\w*|IndexAdd|IndexPut|Unfold|Im2Col|Col2Im|PixelShuffle|PixelUnshuffle|ConstantPadNd|"
    r"(Reflection|Replication)Pad\w*|Neg|Rsub"
)
"""Operations that keep the signal: normalization, dropout, pooling, and those that put parts together."""

_PRODUCT = re.compile(
    r"Addmm|Mm|Bmm|Baddbmm|Addbmm|Mv|Addmv|Dot|Linear|MkldnnLinear|Trilinear|Cdist|SparseAddmm|Embedding\w*|"
    r".*Conv\w*|.*Attention\w*|.*Rnn\w*|.*Lstm\w*|.*Gru\w*"
)
"""Products of a weight and a signal or of two signals, and the lookup of an embedding."""

_END = re.compile(r".*Softmax\w*|.*Softmin\w*|Glu|.*Loss\w*|.*CrossEntropy\w*|Logsumexp|KlDiv")
"""Operations behind which there is no activation: softmax, gated units and losses."""

_SUMS, _MULTIPLICATIONS = {"Add", "Sub"}, {"Mul", "Div"}

REDUCTIONS = {"Mean", "Sum", "Var", "Std", "VarMean", "StdMean", "LinalgVectorNorm", "Norm", "Amax"}
"""Operations that put many elements into one; a signal that is divided by such a number is normalized."""


def is_move(node: Node) -> bool:
    """Return whether an operation only moves or casts numbers."""
    return _MOVE.fullmatch(operation(node)) is not None


def keeps_signal(node: Node) -> bool:
    """Return whether an operation of one signal lets it through, as normalization and pooling do."""
    return is_move(node) or _KEEP.fullmatch(operation(node)) is not None


def is_product(node: Node) -> bool:
    """Return whether an operation is a product, such as that of a layer or of attention."""
    return _PRODUCT.fullmatch(operation(node)) is not None


def is_end(node: Node) -> bool:
    """Return whether there is no activation behind an operation, as behind a loss."""
    return _END.fullmatch(operation(node)) is not None


def is_sum(node: Node) -> bool:
    """Return whether an operation adds or subtracts two tensors."""
    return operation(node) in _SUMS


def is_multiplication(node: Node) -> bool:
    """Return whether an operation multiplies or divides two tensors elementwise."""
    return operation(node) in _MULTIPLICATIONS


def is_constant(node: Node | None) -> bool:
    """Return whether the output of a node depends on parameters alone, as a bias does, or on nothing that is trained.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.operations import is_constant
        >>> layer = nn.Linear(2, 1)
        >>> is_constant(layer.bias.exp().grad_fn), is_constant(layer(torch.ones(1, 2)).grad_fn)
        (True, False)
    """
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if is_product(node):
            return False
        seen.add(node)
        waiting += sources(node)
    return True


def _saved(node: Node, name: str) -> Any:
    return getattr(node, f"_saved_{name}")


def _elu(node: Node) -> nn.Module:
    alpha, scale, input_scale = (float(_saved(node, name)) for name in ("alpha", "scale", "input_scale"))
    if (scale, input_scale) == (1, 1):
        return nn.ELU(alpha)
    selu = torch.nn.SELU()
    return (
        selu if abs(scale - 1.0507) < 1e-4 else Elementwise(lambda x: scale * nn.functional.elu(input_scale * x, alpha))
    )


def _hardtanh(node: Node) -> nn.Module:
    low, high = float(_saved(node, "min_val")), float(_saved(node, "max_val"))
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def _clamp(node: Node) -> nn.Module:
    bounds = [getattr(node, f"_saved_{name}", None) for name in ("min", "max")]
    low, high = (None if bound is None or isinstance(bound, Tensor) else float(bound) for bound in bounds)
    return nn.ReLU() if (low, high) == (0, None) else Elementwise(lambda x: x.clamp(low, high))


def _prelu(node: Node) -> nn.Module:
    return nn.LeakyReLU(float(_saved(node, "weight").detach().double().square().mean().sqrt()))


_ACTIVATIONS: dict[str, Callable[[Node], nn.Module]] = {
    "Relu": lambda node: nn.ReLU(),
    "Gelu": lambda node: nn.GELU(_saved(node, "approximate")),
    "Silu": lambda node: nn.SiLU(),
    "Mish": lambda node: nn.Mish(),
    "Tanh": lambda node: nn.Tanh(),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "LogSigmoid": lambda node: nn.LogSigmoid(),
    "Hardswish": lambda node: nn.Hardswish(),
    "Hardsigmoid": lambda node: nn.Hardsigmoid(),
    "Elu": _elu,
    "Celu": lambda node: nn.CELU(float(_saved(node, "alpha"))),
    "Softplus": lambda node: nn.Softplus(float(_saved(node, "beta")), float(_saved(node, "threshold"))),
    "LeakyRelu": lambda node: nn.LeakyReLU(float(_saved(node, "negative_slope"))),
    "RreluWithNoise": lambda node: nn.LeakyReLU((_saved(node, "lower") + _saved(node, "upper")) / 2),
    "PreluKernel": _prelu,
    "Hardtanh": _hardtanh,
    "Clamp": _clamp,
    "ClampMin": _clamp,
    "ClampMax": _clamp,
    "Threshold": lambda node: nn.Threshold(float(_saved(node, "threshold")), 0.0),
    "Hardshrink": lambda node: nn.Hardshrink(float(_saved(node, "lambd"))),
    "Softshrink": lambda node: nn.Softshrink(float(_saved(node, "lambd"))),
    "Sin": lambda node: Elementwise(torch.sin),
    "Cos": lambda node: Elementwise(torch.cos),
    "Atan": lambda node: Elementwise(torch.atan),
    "Asinh": lambda node: Elementwise(torch.asinh),
    "Erf": lambda node: Elementwise(torch.erf),
}


def activation_of(node: Node) -> nn.Module | None:
    """Return the activation that an operation is, as a module with the same parameters; None if it is no activation.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from spl.isometry.operations import activation_of
        >>> x = torch.ones(2, requires_grad=True)
        >>> activation_of(F.leaky_relu(x, 0.25).grad_fn), activation_of(x.exp().grad_fn)
        (LeakyReLU(negative_slope=0.25), None)
    """
    build = _ACTIVATIONS.get(operation(node))
    return build(node) if build else None


def constant_factor(node: Node) -> float | None:
    """Return the number by which a multiplication or division multiplies its other input; None if it is no number."""
    if not is_multiplication(node):
        return None
    factor = _saved(node, "other" if sources(node)[1] is None else "self")
    if not isinstance(factor, Tensor) or factor.numel() != 1:
        return None
    return float(factor) if operation(node) == "Mul" else 1 / float(factor)
