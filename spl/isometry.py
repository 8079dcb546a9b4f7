"""Approximate isometry: the kept weights of a sparse network brought back to W Wᵀ = σ² I, without data."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.masks import Masks


def isometry_residual(weight: Tensor, gain: float = 1.0) -> Tensor:
    """‖V Vᵀ − σ² I‖_F of a weight [out, in, ...] reshaped to a matrix V, rows along its smaller side.

    Zero if and only if the singular values of V all equal σ = `gain`. The reference takes the Gram matrix of the
    output side whatever its size; along the smaller side the target can be met.
    """
    return _gram_error(weight, gain).square().sum().sqrt()


def _gram_error(weight: Tensor, gain: float) -> Tensor:
    matrix = weight.flatten(1)
    gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    return gram - gain**2 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


class Residual(NamedTuple):
    """The isometry residual of one layer before and after correction."""

    before: float
    after: float


class Correction(ABC):
    """Changes the kept weights of a pruned network before training."""

    @abstractmethod
    def __call__(self, weights: Mapping[str, Tensor], masks: Masks) -> dict[str, Residual]:
        """Correct `weights` in place: pruned entries stay exactly 0.0, and nothing but `weights` is touched.

        Args:
            weights: the masked weight matrices and kernels [out, in, ...] by name; biases are left out.
            masks: what is kept of them.

        Returns:
            The isometry residual of each layer before and after.
        """


class ApproximateIsometry(Correction):
    """AI: min over the kept entries of ‖(C⊙W)(C⊙W)ᵀ − σ² I‖_F, layer by layer.

    Equation 8 of Lee et al. 2020. Solved in float64 by L-BFGS with strong-Wolfe steps on the square of the norm:
    the minimizers are the same, and the square is smooth where the norm, whose gradient has length one even at
    its optimum, makes a fixed step shake for ever.

    Args:
        gain: σ, the singular value to bring every layer to; the paper's is 1 for every activation.
        max_iterations: L-BFGS iterations per layer; most layers of an MLP end well before 500.
    """

    def __init__(self, gain: float = 1.0, max_iterations: int = 500) -> None:
        if not gain > 0:
            raise InputError(f"gain must be positive, got {gain}.")
        if max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {max_iterations}.")
        self.gain = gain
        self.max_iterations = max_iterations

    def __call__(self, weights: Mapping[str, Tensor], masks: Masks) -> dict[str, Residual]:
        """See `Correction`; shows a progress bar when it takes longer than a second."""
        layers = tqdm(weights.items(), desc="Isometry", unit="layer", delay=1, leave=False, disable=None)
        return {name: self._correct_(weight, masks[name]) for name, weight in layers}

    def _correct_(self, weight: Tensor, mask: Tensor) -> Residual:
        before = float(isometry_residual(weight.detach().double(), self.gain))
        places = mask.to(weight.device).flatten().nonzero().flatten()
        values = weight.detach().flatten()[places].double().requires_grad_()
        blank = torch.zeros(weight.numel(), dtype=torch.float64, device=weight.device)

        def matrix() -> Tensor:
            return blank.index_put((places,), values).view(weight.shape)

        solver = torch.optim.LBFGS(
            [values],
            max_iter=self.max_iterations,
            history_size=10,
            tolerance_grad=1e-7,
            tolerance_change=1e-8,  # leaves residuals of 1e-3 and less above a local optimum
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            solver.zero_grad()
            square = _gram_error(matrix(), self.gain).square().sum()
            square.backward()  # type: ignore[no-untyped-call]
            return float(square.detach())

        if len(places):
            solver.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weight.copy_(matrix())
        return Residual(before, float(isometry_residual(weight.detach().double(), self.gain)))
