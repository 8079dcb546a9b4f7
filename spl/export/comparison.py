"""The comparison of the outputs of two networks, relative to the size of these outputs."""

import math

import torch
from torch import Tensor, nn

from spl.functional.torch_private import tree_leaves

_TF32 = 2.0**-10  # the rounding unit of TF32, in which CUDA devices compute convolutions of float32
_ROUNDINGS = 10  # how many rounding errors may add up


def relative_difference(outputs: object, expected: object) -> float:
    """Return the largest relative difference between two outputs.

    For a tensor a and its expected counterpart b it is max |a - b| / max |b|. Equal numbers do not differ. Neither do
    two infinities of the same sign, nor two NaN.

    Args:
        outputs: a tensor, or tensors in lists, tuples and dictionaries; anything else in them is ignored.
        expected: the outputs of the reference network, in the same form.

    Returns:
        The largest difference over all tensors. It is infinite where the tensors differ in number or shape, where a
        number differs from its counterpart and one of them is not finite, and where all numbers of an expected tensor
        are 0 and one of its counterpart is not.

    Example:
        >>> import torch
        >>> from spl.export.comparison import relative_difference
        >>> relative_difference(torch.tensor([1.0, 3.9]), torch.tensor([1.0, 4.0]))
        0.025
    """
    given, right = _tensors(outputs), _tensors(expected)
    if [tensor.shape for tensor in given] != [tensor.shape for tensor in right]:
        return math.inf
    return max(map(_relative_to_largest, given, right), default=0.0)


def tolerance(network: nn.Module, expected: object, least: float) -> float:
    """Return the largest relative difference that rounding can explain.

    Args:
        network: the network that computed the outputs.
        expected: its outputs.
        least: the tolerance in full precision. In half precision, and with TF32 on CUDA devices, the tolerance is ten
            rounding units.

    Example:
        >>> import torch
        >>> from spl.export.comparison import tolerance
        >>> tolerance(torch.nn.Linear(3, 2), torch.ones(1, 2), least=1e-4)
        0.0001
        >>> tolerance(torch.nn.Linear(3, 2).half(), torch.ones(1, 2).half(), least=1e-4)
        0.009765625
    """
    leaves = tree_leaves(expected)
    numbers = [*network.parameters(), *network.buffers(), *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
    units = [_rounding_unit(tensor) for tensor in numbers if tensor.is_floating_point() or tensor.is_complex()]
    return max(least, _ROUNDINGS * max(units, default=0.0))


def _rounding_unit(tensor: Tensor) -> float:
    return max(torch.finfo(tensor.dtype).eps, _TF32 if tensor.is_cuda and tensor.dtype == torch.float32 else 0.0)


def _relative_to_largest(a: Tensor, b: Tensor) -> float:
    differs = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(differs.any()):
        return 0.0
    largest = b.abs().masked_fill(~b.isfinite(), 0.0).max()
    return float(((a - b)[differs].abs().max() / largest).nan_to_num(nan=math.inf, posinf=math.inf))


def _tensors(outputs: object) -> list[Tensor]:
    """Return the tensors in `outputs`, on the CPU in double precision."""
    leaves = tree_leaves(outputs)
    tensors = [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, Tensor)]
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in tensors]
