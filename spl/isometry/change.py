"""The report of what a correction has changed in a layer."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spl.isometry.pruned_layer import PrunedLayer, Residuals
from spl.isometry.structure import floor_at_rank, structural_rank


class Change(NamedTuple):
    """The change that a correction made to one layer, and how close to isometry the layer could have come.

    Attributes:
        before: the residuals of the pruned layer.
        after: the residuals of the corrected layer.
        floor: the least matrix residual of any weight under the layer's mask; see `isometry_floor`.
        rank: the structural rank of the mask.
        gain: σ, the singular value that the correction aimed at.
        moved: ‖ΔW‖ / ‖W‖, the relative change of the weights.
        vanished: the number of kept weights that fell below 1e-4 of the layer's largest.
        gain_of_dense: whether `gain` was taken from the layer before pruning, because the activation behind it has no
            critical gain.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry import ApproximateIsometry
        >>> from spl.masks import Masks
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> mask = torch.tensor([[True, True, False], [False, True, True]])
        >>> change = ApproximateIsometry(tolerance=0.0)(network, Masks({"0.weight": mask})).changes["0.weight"]
        >>> change.rank, change.floor, change.gain, change.moved
        (2, 0.0, 1.0, 2.71)
        >>> change.before.matrix, change.after.matrix
        (1.30, 0.00)
    """

    before: Residuals
    after: Residuals
    floor: float
    rank: int
    gain: float
    moved: float
    vanished: int
    gain_of_dense: bool = False

    def certificate(self) -> dict[str, float]:
        """Return the numbers that say how good the correction is, by name, for the record of a run."""
        return {
            "before": self.before.matrix,
            "residual": self.after.matrix,
            "floor": self.floor,
            "rank": self.rank,
            "gain": self.gain,
            "moved": self.moved,
            "vanished": self.vanished,
        }


@dataclass(frozen=True)
class Before:
    """The state of a layer before its correction, with a copy of its mask if the correction draws another.

    Example:
        >>> import torch
        >>> from spl.isometry.change import Before
        >>> from spl.isometry.pruned_layer import PrunedLayer
        >>> layer = PrunedLayer("fc1.weight", torch.eye(2), torch.eye(2) > 0, gain=1.0)
        >>> before = Before.of(layer, redraws=False)
        >>> layer.weight.mul_(2.0).sum().item(), before.change(layer).moved
        (4.0, 1.0)

    Attributes:
        mask: the mask of the layer.
        kept: the kept weights.
        residuals: the distances from isometry.
        vanishing: the number of kept weights below 1e-4 of the largest.
    """

    mask: Tensor
    kept: Tensor
    residuals: Residuals
    vanishing: int

    @classmethod
    def of(cls, layer: PrunedLayer, redraws: bool) -> "Before":
        """Note the state of a layer; `redraws` says whether its mask may change."""
        mask = layer.mask.clone() if redraws else layer.mask
        return cls(mask, layer.weight[layer.mask], layer.residuals(), _count_vanishing(layer))

    def change(self, layer: PrunedLayer) -> Change:
        """Compare the corrected layer with this state."""
        rank = structural_rank(layer.mask, layer.groups)
        return Change(
            self.residuals,
            layer.residuals(),
            floor=floor_at_rank(layer.mask, rank, layer.gain, layer.groups),
            rank=rank,
            gain=layer.gain,
            moved=self._moved(layer),
            vanished=max(0, _count_vanishing(layer) - self.vanishing),
            gain_of_dense=layer.gain_of_dense,
        )

    def _moved(self, layer: PrunedLayer) -> float:
        new, old = layer.weight[layer.mask].double(), self.kept.double()
        here = layer.weight[self.mask].double()
        square = (here - old).square().sum() + (new.square().sum() - here.square().sum()).clamp(min=0)
        return float((square / old.square().sum()).sqrt()) if old.any() else 0.0


def _count_vanishing(layer: PrunedLayer) -> int:
    """Count the kept weights below 1e-4 of the largest."""
    kept = layer.weight[layer.mask].abs()
    return int((kept < 1e-4 * kept.max()).sum()) if len(kept) else 0


def norm_of(weight: Tensor) -> float:
    """Return the Frobenius norm of a weight.

    Example:
        >>> import torch
        >>> from spl.isometry.change import norm_of
        >>> norm_of(torch.tensor([[3.0, 4.0]]))
        5.0
    """
    dtype = torch.complex128 if weight.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(weight.detach(), dtype=dtype))
