"""Approximate isometry by L-BFGS on the kept entries of a layer."""

from typing import Any

import torch
from torch import Tensor

from spl.errors import InputError
from spl.isometry.correction import Correction
from spl.isometry.residuals import live_part, matrix_error, operator_error


class ApproximateIsometry(Correction):
    """AI: min over the kept entries of ‖(C⊙W)(C⊙W)ᵀ − σ² I‖_F, layer by layer; kernels reshaped to matrices.

    Equation 8 of Lee et al. 2020, along the smaller side of each matrix. Solved in float64 by L-BFGS with
    strong-Wolfe steps on the square of the norm: the minimizers are the same, and the square is smooth where the
    norm, whose gradient has length one even at its optimum, makes a fixed step shake for ever.

    Args:
        gain: σ, the singular value to bring every layer to; the paper's is 1 for every activation.
        max_iterations: L-BFGS iterations per layer; most layers of an MLP end well before 500.
    """

    def __init__(self, gain: float = 1.0, max_iterations: int = 500) -> None:
        super().__init__(gain)
        if max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {max_iterations}.")
        self.max_iterations = max_iterations

    def frame(self, mask: Tensor, geometry: dict[str, Any]) -> Tensor:
        """The part of `mask` to solve in, which keeps all that it keeps, in the same order."""
        return live_part(mask) if geometry.get("groups", 1) == 1 else mask

    def error(self, weight: Tensor, geometry: dict[str, Any]) -> Tensor:
        """The square of the residual to minimize, of a weight in the shape of the frame."""
        return matrix_error(weight, self.gain, geometry.get("groups", 1))

    def correct_(self, weight: Tensor, mask: Tensor, geometry: dict[str, Any]) -> None:
        """See `Correction`."""
        frame = self.frame(mask, geometry)
        places = frame.flatten().nonzero().flatten()
        if not len(places):
            return
        values = weight[mask].double().requires_grad_()
        blank = torch.zeros(frame.numel(), dtype=torch.float64, device=weight.device)

        def filled() -> Tensor:
            return blank.index_put((places,), values).view(frame.shape)

        solver = torch.optim.LBFGS(
            [values],
            max_iter=self.max_iterations,
            history_size=10,
            tolerance_grad=1e-7,
            tolerance_change=1e-8,  # leaves residuals of 1e-3 and less above a local optimum
            line_search_fn="strong_wolfe",
        )

        @torch.enable_grad()
        def closure() -> float:
            solver.zero_grad()
            square = self.error(filled(), geometry)
            square.backward()  # type: ignore[no-untyped-call]
            return float(square.detach())

        solver.step(closure)  # type: ignore[no-untyped-call]
        weight[mask] = values.detach().to(weight.dtype)


class OperatorIsometry(ApproximateIsometry):
    """min over the kept entries of ‖K ⋆ K − σ² δ‖_F: approximate isometry of the convolution, not of a reshaped kernel.

    See `spl.isometry.operator_residual`. Linear layers, and 1×1 convolutions at stride 1, are corrected as by
    `ApproximateIsometry`. A kernel of 512×512×3×3 takes many minutes on a CPU.

    Args:
        gain: σ, the singular value to bring every layer to.
        max_iterations: L-BFGS iterations per layer.
    """

    def frame(self, mask: Tensor, geometry: dict[str, Any]) -> Tensor:
        """The whole of `mask`."""
        return mask

    def error(self, weight: Tensor, geometry: dict[str, Any]) -> Tensor:
        """The square of the residual to minimize."""
        return operator_error(weight, self.gain, **geometry)
