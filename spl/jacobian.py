"""Jacobian singular values (JSV): how faithfully a network carries signals from its input to its logits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spl.errors import InputError
from spl.functional.undisturbed import BatchNormMode, undisturbed


def singular_values(network: nn.Module, inputs: Tensor, chunk: int = 250, batch_norm: BatchNormMode = "eval") -> Tensor:
    """Return the singular values of the input-output Jacobian ∂logits/∂input at each example.

    They are exact. One forward and C backward passes serve a whole chunk of examples: in evaluation mode the logits
    of one example don't depend on the input of another, so the gradient of a logit's sum over examples holds its
    gradient at each example. QR reduces the C×D Jacobians to triangles. The squared singular values of a triangle are
    computed as eigenvalues in float64. The error is that of the network's own arithmetic, about 1e-7 of the largest
    value in float32.

    Args:
        network: a network that maps [N, ...] to logits [N, C]. It is left as it was found.
        inputs: Tensor [N, ...] of examples, as the network takes them, on its device.
        chunk: the most examples to process at a time. Memory grows with it, and with N only by the result.
        batch_norm: see `undisturbed`. With `batch`, examples depend on each other, and the values are approximate.

    Returns:
        Tensor [N, min(C, D)] on the CPU, in float64, descending; D is the size of one input.

    Raises:
        InputError: the output is not [N, C], or memory runs out.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.initializers import Orthogonal
        >>> from spl.jacobian import singular_values
        >>> network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        >>> Orthogonal()(network)
        >>> singular_values(network, torch.randn(2, 5)).tolist()
        [[1.00, 1.00, 1.00], [1.00, 1.00, 1.00]]
    """
    chunks = torch.tensor_split(inputs, math.ceil(len(inputs) / chunk))  # of equal size: BatchNorm refuses one example
    progress = tqdm(chunks, desc="Jacobian", unit="chunk", delay=1, leave=False, disable=None)
    with undisturbed(network, batch_norm), _memory_advice(len(chunks[0])):
        return torch.cat([_triangle_values(_input_jacobian(network, part)) for part in progress])


@contextmanager
def _memory_advice(chunk: int) -> Iterator[None]:
    """Turn out-of-memory errors of PyTorch into advice on the chunk."""
    try:
        yield
    except RuntimeError as error:
        if "tried to allocate" not in str(error).lower():  # the words are the same on every device
            raise
        raise InputError(
            f"The Jacobian spectrum ran out of memory at {chunk} examples at a time: lower the chunk "
            f"(spectrum.chunk, singular_values(chunk=...)) to {max(1, chunk // 4)}. The spectrum stays the same."
        ) from error


def _input_jacobian(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return ∂logits/∂input [n, C, D] at inputs [n, ...]."""
    if not torch.is_floating_point(inputs):
        raise InputError(f"The Jacobian spectrum needs floating-point inputs to differentiate by, got {inputs.dtype}.")
    inputs = inputs.detach().requires_grad_()
    logits = network(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"The Jacobian spectrum needs logits of shape [N, classes], got {found} from inputs of shape "
            f"{tuple(inputs.shape)}."
        )
    classes = logits.shape[1]
    jacobian: Tensor = logits.new_empty(len(inputs), classes, inputs[0].numel())
    for k, column in enumerate(logits.unbind(1)):
        (gradient,) = torch.autograd.grad(column.sum(), inputs, retain_graph=k < classes - 1)
        jacobian[:, k] = gradient.flatten(1)
    return jacobian


def _triangle_values(jacobian: Tensor) -> Tensor:
    """Return the singular values of matrices [n, C, D], descending, in float64 on the CPU.

    Those of a matrix that is not finite are NaN.
    """
    tall = jacobian.mT if jacobian.shape[1] <= jacobian.shape[2] else jacobian
    if tall.dtype in (torch.bfloat16, torch.float16):
        tall = tall.float()
    triangle = torch.linalg.qr(tall, mode="r").R.cpu().double()
    finite = triangle.isfinite().all(-1).all(-1)
    values = torch.full(triangle.shape[:-1], math.nan, dtype=torch.float64)
    squares = torch.linalg.eigvalsh(triangle[finite].mT @ triangle[finite])
    values[finite] = squares.clamp(min=0).sqrt().flip(-1)
    return values


@dataclass(frozen=True)
class Spectrum:
    """The statistics of the Jacobian singular values of all examples together.

    Attributes:
        mean: the mean of the values, 1 under dynamical isometry.
        std: the standard deviation of the values (of the population, as in the reference).
        max: the largest value.
        min: the smallest value.
        condition: max / min; infinite if min is 0.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.jacobian import Spectrum, singular_values
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        >>> spectrum = Spectrum.of(singular_values(network, torch.randn(8, 5)))
        >>> spectrum.mean, spectrum.condition
        (0.26, 12.61)
        >>> Spectrum.of(torch.tensor([[2.0, 1.0], [1.0, 0.5]])).as_dict()
        {'mean': 1.125, 'std': 0.54, 'max': 2.0, 'min': 0.5, 'condition': 4.0}
    """

    mean: float
    std: float
    max: float
    min: float
    condition: float

    @classmethod
    def of(cls, values: Tensor) -> "Spectrum":
        """Compute the statistics of a tensor of singular values, of any shape."""
        largest, smallest = float(values.max()), float(values.min())
        return cls(
            mean=float(values.mean()),
            std=float(values.std(correction=0)),
            max=largest,
            min=smallest,
            condition=largest / smallest if smallest else math.inf,
        )

    def as_dict(self) -> dict[str, float]:
        """Return the statistics by name."""
        return asdict(self)
