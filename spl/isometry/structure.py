"""What a mask alone decides of isometry: its structural rank, and the residual that no weights go below."""

from math import sqrt

from scipy.sparse import csr_array
from scipy.sparse.csgraph import structural_rank as matching_size
from torch import Tensor


def structural_rank(mask: Tensor) -> int:
    """The largest rank of any matrix with these kept entries: the size of a maximum matching of rows and columns.

    Args:
        mask: bool [out, in, ...], reshaped to a matrix.
    """
    return int(matching_size(csr_array(mask.flatten(1).cpu().numpy())))


def isometry_floor(mask: Tensor, gain: float = 1.0, groups: int = 1) -> float:
    """σ² √(n − r), the smallest `isometry_residual` under `mask`: n its smaller side, r its structural rank.

    Args:
        mask: bool [out, in, ...] of a Linear or convolutional layer.
        gain: σ.
        groups: of the convolution; each group is a matrix of its own.
    """
    missing = sum(min(part.flatten(1).shape) - structural_rank(part) for part in mask.chunk(groups))
    return float(gain**2 * sqrt(missing))
