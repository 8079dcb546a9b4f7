"""What two networks compute for the same inputs, compared relative to the size of their outputs."""

import math

import torch
from torch import Tensor, nn

_TF32 = 2.0**-10  # what float32 is rounded to in convolutions on CUDA devices
_ROUNDINGS = 10  # that may add up


def relative_difference(outputs: object, expected: object) -> float:
    """Return the largest difference of outputs: max |a - b| / max |b| of each tensor b, and of all these the largest.

    Equal numbers do not differ, nor do two infinities of one sign or two NaN.

    Args:
        outputs: a tensor, or tensors in lists, tuples and dictionaries; anything else in these is left out.
        expected: the same of the network that is right; its sizes count.

    Returns:
        Infinity where the tensors differ in number or shape, where one number is not finite and the other is another,
        and where all numbers of an expected tensor are 0 and one that was given is not.
    """
    given, right = _tensors(outputs), _tensors(expected)
    if [tensor.shape for tensor in given] != [tensor.shape for tensor in right]:
        return math.inf
    return max(map(_relative, given, right), default=0.0)


def tolerance(network: nn.Module, expected: object, least: float) -> float:
    """Return the relative difference up to which rounding may explain it.

    Args:
        network: what it was to compute.
        expected: its outputs.
        least: the tolerance in full precision; in half precision, and with TF32 on CUDA devices, it is ten units of
            rounding.
    """
    leaves = torch.utils._pytree.tree_leaves(expected)
    numbers = [*network.parameters(), *network.buffers(), *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
    roundings = [_rounding(tensor) for tensor in numbers if tensor.is_floating_point() or tensor.is_complex()]
    return max(least, _ROUNDINGS * max(roundings, default=0.0))


def _rounding(tensor: Tensor) -> float:
    return max(torch.finfo(tensor.dtype).eps, _TF32 if tensor.is_cuda and tensor.dtype == torch.float32 else 0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    differs = ~((a == b) | (a.isnan() & b.isnan()))
    if not bool(differs.any()):
        return 0.0
    largest = b.abs().masked_fill(~b.isfinite(), 0.0).max()
    return float(((a - b)[differs].abs().max() / largest).nan_to_num(nan=math.inf, posinf=math.inf))


def _tensors(outputs: object) -> list[Tensor]:
    """The tensors in it, on the CPU in double precision."""
    leaves = torch.utils._pytree.tree_leaves(outputs)
    tensors = [leaf.detach().cpu() for leaf in leaves if isinstance(leaf, Tensor)]
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in tensors]
