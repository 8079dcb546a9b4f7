"""The limits that a mask sets to isometry: structural rank, floor of the residual, and a matching that reaches it."""

from collections.abc import Iterator
from math import sqrt

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching
from torch import Tensor


def structural_rank(mask: Tensor, groups: int = 1) -> int:
    """Return the highest rank of any weight under `mask`: the size of a maximum matching of its outputs and inputs.

    Args:
        mask: bool [out, in, ...]; it is reshaped to a matrix [out, in·k].
        groups: the groups of the convolution. Each group is a matrix of its own, and their ranks add up.

    Example:
        >>> import torch
        >>> from spl.isometry import structural_rank
        >>> mask = torch.tensor([[True, True, False], [False, False, True], [False, False, True]])
        >>> structural_rank(mask)
        2
    """
    matchings = (maximum_bipartite_matching(_sparse(block), perm_type="column") for block in _blocks(mask, groups))
    return sum(int((columns >= 0).sum()) for columns in matchings)


def isometry_floor(mask: Tensor, gain: float = 1.0, groups: int = 1) -> float:
    """Return the least `isometry_residual` of any weight under `mask`: σ² √(n − r).

    n is the smaller side of the matrix and r its structural rank. No matrix under the mask has a higher rank than r,
    so at least n − r of its n singular values are 0. A matrix with ±σ at the entries of a maximum matching, and zeros
    elsewhere, has r singular values σ.

    Args:
        mask: bool [out, in, ...].
        gain: σ.
        groups: the groups of the convolution. n is the sum of the smaller sides of their matrices.

    Example:
        >>> import torch
        >>> from spl.isometry import isometry_floor
        >>> mask = torch.tensor([[True, True, False], [False, False, True], [False, False, True]])
        >>> isometry_floor(mask), isometry_floor(mask, gain=2.0)
        (1.0, 4.0)
    """
    return floor_at_rank(mask, structural_rank(mask, groups), gain, groups)


def floor_at_rank(mask: Tensor, rank: int, gain: float = 1.0, groups: int = 1) -> float:
    """Return the `isometry_floor` of a mask whose structural rank is known."""
    return gain**2 * sqrt(sum(min(block.shape) for block in _blocks(mask, groups)) - rank)


def heaviest_matching(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum matching of the rows and columns of `mask` whose entries have the largest Σ|w|.

    Of all signed partial permutations of the structural rank it has the largest inner product with the weights. They
    all have the same norm, so it is also the nearest to the weights. Each row gets an extra place that costs more than
    any matching can gain. So a full matching exists, and one that uses the fewest extra places has the highest rank.

    Args:
        weight: the weights of the kept entries, row by row.
        mask: bool [n, m].

    Returns:
        A bool tensor on the CPU that says which of the kept entries are matched.

    Example:
        >>> import torch
        >>> from spl.isometry.structure import heaviest_matching
        >>> weight = torch.tensor([[3.0, 2.0], [2.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> heaviest_matching(weight[mask], mask)
        tensor([False,  True,  True])
    """
    rows, columns = (axis.numpy() for axis in mask.cpu().nonzero(as_tuple=True))
    sizes = weight.detach().cpu().abs().double().numpy()
    largest = sizes.max(initial=0.0)
    relative = sizes / largest if largest > 0 else sizes
    n, m = mask.shape
    costs = np.concatenate([2.0 - relative, np.full(n, 2.0 * n + 2.0)])  # SciPy takes a cost of 0 for no edge
    places = (np.concatenate([rows, np.arange(n)]), np.concatenate([columns, m + np.arange(n)]))
    found = min_weight_full_bipartite_matching(csr_array((costs, places), shape=(n, m + n)))
    partner = np.empty(n, dtype=np.int64)
    partner[found[0]] = found[1]
    return torch.from_numpy(partner[rows] == columns)


def _blocks(mask: Tensor, groups: int) -> Iterator[Tensor]:
    return (block.flatten(1) for block in mask.chunk(groups))


def _sparse(block: Tensor) -> csr_array:
    return csr_array(block.cpu().numpy())
