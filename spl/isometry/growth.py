"""Values for weights that grow into a layer while it trains, which bring it nearer to isometry."""

from math import sqrt

import torch
from torch import Tensor

from spl.isometry.pruned_layer import wide_matrix
from spl.isometry.solver import KeptEntries, minimize

_GAP = 0.05  # to isometry at which the search may end, in units of σ² √n, as in ApproximateIsometry
_ITERATIONS = 50
_START = 0.1  # of the root mean square of the kept weights


class _GrownEntries(KeptEntries):
    """Matrices of which only the entries that have grown may change."""

    movable: Tensor  # [problems, K], 1 for entries that have grown

    def gather(self, matrices: Tensor) -> Tensor:
        """Take the entries that have grown; all others are 0."""
        return super().gather(matrices) * self.movable


@torch.no_grad()
def isometric_growth(weight: Tensor, kept: Tensor, grown: Tensor, gain: float, groups: int = 1) -> Tensor:
    """Return the weight with values at the entries that have grown for which ‖V Vᵀ − σ² I‖_F is locally least.

    V is the weight as a matrix, taken along its smaller side; the other entries stay as they are. The search is that
    of `ApproximateIsometry`, and starts at small values of alternating sign, because 0 can be a saddle.

    Args:
        weight: the weight [out, in, ...] of a layer, with any values at the entries that have grown.
        kept: bool tensor in its shape, True for all entries that are kept, those that have grown among them.
        grown: bool tensor in its shape, True for the entries that have grown.
        gain: σ, the singular value to bring the layer to, such as the root mean square of those that it had.
        groups: the groups of the convolution; each is a matrix of its own.

    Example:
        >>> import torch
        >>> from spl.isometry import isometric_growth
        >>> weight, kept = torch.tensor([[0.8, 0.6], [0.0, 0.8]]), torch.ones(2, 2, dtype=torch.bool)
        >>> grown = torch.tensor([[False, False], [True, False]])
        >>> isometric_growth(weight, kept, grown, gain=1.0)
        tensor([[ 0.80,  0.60],
                [-0.60,  0.80]])
    """
    parts = zip(weight.chunk(groups), kept.chunk(groups), grown.chunk(groups), strict=True)
    return torch.cat([_grown(*part, gain) if bool(part[2].any()) else part[0] for part in parts])


def _grown(weight: Tensor, kept: Tensor, grown: Tensor, gain: float) -> Tensor:
    """Return one matrix with values at the entries that have grown, in the shape of `weight`."""
    mask, new = wide_matrix(kept), wide_matrix(grown)
    values = wide_matrix(weight)[mask].to(torch.promote_types(weight.dtype, torch.float32)) / gain
    movable = new[mask]
    signs = 1 - 2 * (torch.arange(len(values), device=values.device) % 2)
    rms = values[~movable].square().mean().sqrt() if not bool(movable.all()) else values.new_ones(())
    values = torch.where(movable, _START * rms * signs, values)
    matrices = _GrownEntries(mask[None])
    matrices.movable = movable[None].to(values)
    floor = torch.zeros(1, dtype=torch.float64, device=values.device)
    solved, _ = minimize(matrices, values[None], floor, _GAP * sqrt(len(mask)), _ITERATIONS)
    result = torch.zeros_like(wide_matrix(weight)).masked_scatter_(mask, (gain * solved[0]).to(weight.dtype))
    wide = torch.where(new, result, wide_matrix(weight))
    return (wide if wide.shape == weight.flatten(1).shape else wide.mT).reshape(weight.shape)
