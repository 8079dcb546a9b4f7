"""L-BFGS for min ‖V Vᴴ − T‖²_F over matrices V that are linear in their parameters, many problems at a time.

Along a line V + t D the squared norm is a polynomial of degree four in t. Its coefficients cost two matrix products
more than its slope. So the first minimum on every line is found exactly, no step is tried in vain, and the problems
of a batch do not wait for each other's line searches.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spl.functional.precision import full_precision
from spl.isometry.residuals import gram

_HISTORY = 10  # the steps that L-BFGS remembers
_CHUNK = 2**21  # the entries that are multiplied at a time,
_CHUNK_OF_ACCELERATORS = 2**26  # which have more memory, and take long to begin
_REFRESH = 10  # V Vᴴ is computed anew after so many iterations, and updated along the lines in between
_WINDOW = 40  # a problem ends if so many iterations bring it less than a hundredth of its distance to the floor


class Matrices(ABC):
    """A linear map from parameters to matrices, and the target T of their Gram matrices.

    Attributes:
        target: the diagonal of T; Tensor [problems, 1, n], or a shape that broadcasts to [problems, matrices, n].
        weights: Tensor [matrices], the weight of each matrix in the sum of squares.
    """

    target: Tensor
    weights: Tensor

    @abstractmethod
    def spread(self, parameters: Tensor) -> Tensor:
        """Map parameters [problems, K] to matrices [problems, matrices, n, m]."""

    @abstractmethod
    def gather(self, matrices: Tensor) -> Tensor:
        """Apply the adjoint of `spread` to matrices [problems, matrices, n, m]; the result is [problems, K]."""

    @abstractmethod
    def subset(self, chosen: Tensor) -> "Matrices":
        """Return some of the problems; `chosen` is bool [problems]."""

    def deviation(self, matrices: Tensor) -> Tensor:
        """Return V Vᴴ − T [problems, matrices, n, n]."""
        deviation = gram(matrices)
        deviation.diagonal(dim1=-2, dim2=-1).sub_(self.target)
        return deviation

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum over matrices and entries of weight · Re(ā b), in float64 [problems]."""
        chunk = _CHUNK if a.device.type == "cpu" else _CHUNK_OF_ACCELERATORS
        rows = max(1, chunk // (len(a) * a.shape[1] * a.shape[3]))  # bounds the memory of the products
        parts = zip(torch.split(a, rows, 2), torch.split(b, rows, 2), strict=True)
        sums = torch.stack([(x.conj() * y).real.sum((-2, -1), dtype=torch.float64) for x, y in parts]).sum(0)
        return sums @ self.weights.double()


class KeptEntries(Matrices):
    """Problems of one matrix each, whose kept entries are the parameters, padded to the longest problem.

    Args:
        masks: bool [problems, n, m]. The target of a row that keeps no entry is 0.
        width: K, the number of parameters; by default the most entries that a problem keeps.
    """

    def __init__(self, masks: Tensor, width: int | None = None) -> None:
        self.masks = masks
        counts = masks.flatten(1).sum(1)
        self.slots = torch.arange(width or max(1, int(counts.max())), device=masks.device) < counts[:, None]
        self.places = masks.new_full(self.slots.shape, masks[0].numel(), dtype=torch.long)  # the place of padding
        self.places[self.slots] = masks.flatten(1).nonzero()[:, 1]
        self.target = masks.any(2)[:, None].float()
        self.weights = torch.ones(1, device=masks.device)

    def pack(self, entries: Sequence[Tensor]) -> Tensor:
        """Return the kept entries of each matrix, given row by row, as parameters [problems, K]."""
        parameters = entries[0].new_zeros(self.slots.shape)
        parameters[self.slots] = torch.cat(list(entries))
        return parameters

    def unpack(self, parameters: Tensor) -> Sequence[Tensor]:
        """Return the kept entries of each matrix: the inverse of `pack`."""
        return torch.split(parameters[self.slots], self.slots.sum(1).tolist())

    def spread(self, parameters: Tensor) -> Tensor:
        """Put the entries into their places in the matrices."""
        size = self.masks[0].numel()
        filled = parameters.new_zeros(len(parameters), size + 1).scatter_(1, self.places, parameters)
        return filled[:, :size].view(len(parameters), 1, *self.masks.shape[1:])

    def gather(self, matrices: Tensor) -> Tensor:
        """Take the entries from their places in the matrices; padding is 0."""
        flat = matrices.flatten(1)
        last = flat.shape[1] - 1
        return flat.gather(1, self.places.clamp(max=last)) * self.slots

    def subset(self, chosen: Tensor) -> "KeptEntries":
        """Return some of the problems with as many parameters as before, so that rows of parameters fit both."""
        return KeptEntries(self.masks[chosen], self.slots.shape[1])


@full_precision()
def minimize(
    matrices: Matrices, start: Tensor, floors: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Find parameters near `start` at which ‖V Vᴴ − T‖_F is locally least.

    A problem ends within `tolerance` of its floor, or when it comes no nearer.

    Args:
        matrices: the problems.
        start: parameters [problems, K]; float32 reaches gaps of 1e-4 and less.
        floors: the least norm that each problem can have, [problems]; 0 if none is known.
        tolerance: the gap to the floor at which a problem ends.
        max_iterations: the most iterations.

    Returns:
        Parameters [problems, K] and norms [problems], float64.
    """
    parameters = start.clone()
    v = matrices.spread(parameters)
    a = matrices.deviation(v)
    norms = matrices.inner(a, a).sqrt()
    memory = _Memory()
    ended, past = norms <= floors + tolerance, deque([norms], _WINDOW)
    for iteration in range(1, max_iterations + 1):
        running = int((~ended).sum())
        if 2 * running <= len(ended):  # go on with the running problems alone, if any
            if running:
                parameters[~ended], norms[~ended] = minimize(
                    matrices.subset(~ended),
                    parameters[~ended],
                    floors[~ended],
                    tolerance,
                    max_iterations - iteration + 1,
                )
            break
        gradient = matrices.gather((4 * matrices.weights[:, None, None] * a) @ v)
        direction = memory.direction(gradient)
        d = matrices.spread(direction)
        p, q = v @ d.mH, gram(d)
        line = (
            4 * matrices.inner(a, p),
            2 * matrices.inner(a, q) + 2 * matrices.inner(p, p) + 2 * matrices.inner(p, p.mH),
            4 * matrices.inner(p, q),
            matrices.inner(q, q),
        )
        length = _first_minimum(torch.stack(line)).to(parameters).masked_fill(ended, 0.0)
        step = length[:, None] * direction
        memory.add(step)
        parameters += step
        t = length[:, None, None, None].to(v.dtype)
        v.addcmul_(t, d)
        if iteration % _REFRESH:
            a.addcmul_(t, p).addcmul_(t, p.mH).addcmul_(t**2, q)
        del d, p, q  # as large as the matrices; free them before the next ones are computed
        if not iteration % _REFRESH:
            a = matrices.deviation(v)
        norms = matrices.inner(a, a).sqrt()
        stuck = past[0] - norms < 0.01 * (norms - floors) if len(past) == _WINDOW else torch.zeros_like(ended)
        ended = ended | (norms <= floors + tolerance) | stuck
        past.append(norms)
    return parameters, norms


class _Memory:
    """The L-BFGS approximation of each problem's inverse Hessian, from the last steps and changes of the gradient."""

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_HISTORY)
        self.gradient: Tensor | None = None
        self.step: Tensor | None = None

    def add(self, step: Tensor) -> None:
        """Record a step from the point of the last call of `direction`."""
        self.step = step

    def direction(self, gradient: Tensor) -> Tensor:
        """Return a descent direction [problems, K] by the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
        if self.gradient is not None and self.step is not None:
            self._remember(self.step, gradient - self.gradient)
        self.gradient = gradient
        downhill = -gradient
        shares = []
        for step, change, curvature in reversed(self.pairs):
            shares.append(curvature * (step * downhill).sum(1, keepdim=True))
            downhill = downhill - shares[-1] * change
        if self.pairs:
            step, change, _ = self.pairs[-1]
            scale = (step * change).sum(1, keepdim=True) / change.square().sum(1, keepdim=True)
            downhill = downhill * scale.nan_to_num(1.0, posinf=1.0)
        for (step, change, curvature), share in zip(self.pairs, reversed(shares), strict=True):
            downhill = downhill + (share - curvature * (change * downhill).sum(1, keepdim=True)) * step
        uphill = (downhill * gradient).sum(1, keepdim=True) >= 0
        return torch.where(uphill, -gradient, downhill)

    def _remember(self, step: Tensor, change: Tensor) -> None:
        """Keep a pair of step and change; it has no effect on problems where the curvature is not positive."""
        product = (step * change).sum(1, keepdim=True)
        curved = product > 1e-12 * change.square().sum(1, keepdim=True)
        curvature = torch.where(curved, 1 / product, 0.0)
        self.pairs.append((step, change, curvature))


def _first_minimum(slopes: Tensor) -> Tensor:
    """Return the smallest t > 0 at which a + 2bt + 3ct² + 4dt³ vanishes, or 0 if a ≥ 0.

    Args:
        slopes: the coefficients a, b, c and d, [4, problems].
    """
    a, b, c, d = slopes.cpu().numpy()
    downhill = (a < 0) & (d > 0)
    lengths: npt.NDArray[np.float64] = np.zeros_like(a)
    a, b, c, d = (x[downhill] for x in (a, b, c, d))
    unit = np.cbrt(-a / (4 * d))  # in units of it the cubic's first coefficient is 1 and its last is -1
    companion = np.zeros((len(a), 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1.0
    companion[:, 0, 2] = 1.0
    companion[:, 1, 2] = -2 * b * unit / -a
    companion[:, 2, 2] = -3 * c * unit**2 / -a
    roots = np.linalg.eigvals(companion)
    positive = np.where((roots.imag == 0) & (roots.real > 0), roots.real, np.inf)
    lengths[downhill] = positive.min(1, initial=np.inf) * unit
    return torch.from_numpy(np.where(np.isfinite(lengths), lengths, 0.0))
