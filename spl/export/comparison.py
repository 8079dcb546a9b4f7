"""The comparison of an exported network with its source, on random inputs and relative to the size of the outputs."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spl.functional.held_objects import detached_copy
from spl.functional.torch_private import tree_leaves

_TOLERANCE = 1e-4  # relative to the largest output; rounding errors are far below
_BATCHES = (1, 3)  # exporters treat a batch of one as a special case
_TF32 = 2.0**-10  # the rounding unit of TF32, in which CUDA devices compute convolutions of float32
_ROUNDINGS = 10  # how many rounding errors may add up
_LARGEST_LIMIT = 0.05  # above it, a comparison says nothing


def difference_of_outputs(
    network: nn.Module, example: Tensor, run: Callable[[list[Tensor]], Sequence[object]], least: float = _TOLERANCE
) -> str:
    """Return how the outputs of an exported network differ from those of its source, for two batches of random inputs.

    Args:
        network: the source, in evaluation mode.
        example: one batch of inputs; the random ones resemble it.
        run: runs the exported network on each of the batches, and returns its outputs.
        least: the largest relative difference that rounding explains in full precision.

    Returns:
        A sentence with the largest relative difference; it is empty if rounding explains all differences.

    Example:
        >>> import torch
        >>> from spl.export.comparison import difference_of_outputs
        >>> layer, example = torch.nn.Linear(3, 2), torch.ones(1, 3)
        >>> difference_of_outputs(layer, example, lambda batches: [layer(inputs) for inputs in batches])
        ''
        >>> difference_of_outputs(layer, example, lambda batches: [2 * layer(inputs) for inputs in batches])
        'for a batch of 1, outputs differ by 1 relative to the largest one, and rounding explains 0.0001.'
    """
    batches = [random_inputs(example, count) for count in _BATCHES]
    with torch.no_grad():
        computed = run(batches)
        for inputs, outputs in zip(batches, computed, strict=True):
            expected = network(inputs)
            difference = relative_difference(outputs, expected)
            most = rounding_limit(network, inputs, expected, least, difference)
            if not difference <= most:
                return (
                    f"for a batch of {len(inputs)}, outputs differ by {difference:.2g} relative to the largest one, "
                    f"and rounding explains {most:.2g}."
                )
    return ""


def random_inputs(example: Tensor, count: int) -> Tensor:
    """Return `count` random inputs that resemble those of the example, the same ones at each call.

    Floating-point numbers lie between 0 and a number of the example at the same place. If the example is all zeros,
    they are normally distributed. Other numbers, such as tokens, are drawn from the example at the same place.

    Args:
        example: one batch of inputs that the network takes.
        count: number of inputs.

    Example:
        >>> import torch
        >>> from spl.export.comparison import random_inputs
        >>> random_inputs(torch.tensor([[3, 8], [3, 9]]), 4).shape
        torch.Size([4, 2])
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (count, *example.shape[1:])
    if not example.is_floating_point():
        return example.gather(0, torch.randint(len(example), sizes, generator=generator).to(example.device))
    if not bool(example.any()):
        return torch.randn(sizes, generator=generator).to(example)
    rows = torch.arange(count, device=example.device) % len(example)
    return example[rows] * torch.rand(sizes, generator=generator).to(example)


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


def rounding_limit(
    network: nn.Module, inputs: Tensor, expected: object, least: float, difference: float = math.inf
) -> float:
    """Return the largest relative difference that rounding can explain, also for networks that amplify it.

    Some deep networks amplify rounding errors by more than a thousand. Where a difference is above the `tolerance`, a
    copy of the network runs in double precision, and ten times the change of its outputs counts as rounding, up to
    0.05.

    Args:
        network: the network that computed the outputs.
        inputs: its inputs.
        expected: its outputs.
        least: the tolerance in full precision.
        difference: the difference that is to be explained; the copy is made only if it is above the tolerance.

    Example:
        >>> import torch
        >>> from spl.export.comparison import rounding_limit
        >>> class Amplifying(torch.nn.Module):
        ...     def forward(self, x):
        ...         return 1 + 1e4 * ((1 + x / 3) * 3 - 3 - x)
        >>> network, inputs = Amplifying(), torch.linspace(0, 1, 100)
        >>> 1e-3 < rounding_limit(network, inputs, network(inputs), least=1e-4) < 0.05
        True
    """
    limit = tolerance(network, expected, least)
    if difference <= limit:
        return limit
    try:
        exact = detached_copy(network).double()
        with torch.no_grad():
            error = relative_difference(expected, exact(inputs.double() if inputs.is_floating_point() else inputs))
    except Exception:  # whatever a network raises that is written for one precision, or that cannot be copied
        return limit
    return max(limit, min(_ROUNDINGS * error, _LARGEST_LIMIT)) if math.isfinite(error) else limit


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
