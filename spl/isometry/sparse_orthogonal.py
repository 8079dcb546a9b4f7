"""A correction that draws exactly orthogonal sparse weights under the masks that a criterion has found."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spl.isometry.drawn import Drawn, middle_tap
from spl.isometry.structure import heaviest_matching


class SparseOrthogonal(Drawn):
    """The weights of sparsity-aware orthogonal initialization (SAO): V Vᵀ = σ² I under the given masks.

    Esguerra et al. 2023 (IEEE Access, doi:10.1109/ACCESS.2023.3295344). A mask is divided into blocks of outputs and
    inputs between which it keeps every weight. Each block becomes a random matrix with σ times orthonormal rows or
    columns, along its smaller side. In a convolution this matrix is the middle tap, so that the convolution itself is
    an isometry (delta-orthogonal). Kept weights outside the blocks, and those of other taps, start at 0.

    The masks of `spl.criteria.SAO` consist of such blocks, so that only their surplus weights start at 0. Other masks
    have only small blocks. Their weights are exactly orthogonal too, but most of them start at 0. `EOI` avoids that by
    drawing other masks of the same densities. If the mask of the middle taps has a structural rank below the smaller
    side, as after unstructured pruning of convolutions, the other singular values are 0.

    For ReLU, the authors mirror the weights to [[V, −V], [−V, V]]. Here the gain √2 takes the place of that, as in the
    other corrections.

    Args:
        gain: σ; see `Correction`.
        seed: the seed of the draws, which are made on the CPU and so are equal on every process and device; null for
            a number that the seed of the run decides.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import SAO
        >>> from spl.isometry import SparseOrthogonal
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> masks, changes = SparseOrthogonal(seed=0)(network, prune(network, SAO(seed=0), sparsity=0.5))
        >>> changes["0.weight"].after.matrix, changes["0.weight"].gain
        (0.00, 1.41)
    """

    def draw(self, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw weights that are orthogonal in each block of the middle tap, and leave the mask as it is."""
        middle = middle_tap(mask.shape)
        weight = torch.zeros(mask.shape, dtype=torch.float64)
        weight[middle] = orthogonal_under(mask[middle], generator)
        return weight, mask


def orthogonal_under(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random matrix under `mask` whose singular values are 1, as many as the mask's structural rank, and 0.

    Args:
        mask: bool [n, m].
        generator: a random generator on the CPU.

    Returns:
        Tensor [n, m] in float64 on the CPU, 0.0 where the mask is False, and outside of the blocks of the mask.

    Example:
        >>> import torch
        >>> from spl.isometry.sparse_orthogonal import orthogonal_under
        >>> mask = torch.tensor([[True, True, False], [True, True, True]])
        >>> matrix = orthogonal_under(mask, torch.Generator().manual_seed(0))
        >>> (matrix @ matrix.mT).tolist()
        [[1.00, 0.00], [0.00, 1.00]]
    """
    if mask.shape[0] > mask.shape[1]:
        return orthogonal_under(mask.mT, generator).mT
    mask = mask.cpu()
    matrix = torch.zeros(mask.shape, dtype=torch.float64)
    for rows, columns in _complete_blocks(mask):
        normal = torch.randn(len(columns), len(rows), generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        matrix[rows[:, None], columns] = (q * r.diagonal().sign()).mT  # the signs make the draw uniform
    return matrix


def _complete_blocks(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows and at least as many columns all of whose pairs the mask keeps; no two blocks share rows or columns.

    A maximum matching gives each row a column of its own. It prefers the entries that lie in the most squares of kept
    entries, so that it does not leave the blocks of which the mask consists. Rows that keep each other's columns form
    blocks, and each column that is left joins the block with which it has the most squares.
    """
    kept = mask.double()
    squares = kept @ kept.mT @ kept
    matching = torch.zeros_like(mask)
    matching[mask] = heaviest_matching(squares[mask], mask)
    rows, partners = matching.nonzero(as_tuple=True)
    if not len(rows):
        return
    agree = mask[rows][:, partners]
    agree = agree & agree.mT
    blocks = list(_cliques(agree))
    member = torch.zeros(len(blocks), len(mask), dtype=torch.float64)
    for i, block in enumerate(blocks):
        member[i, rows[block]] = 1.0
    size = member.sum(1, keepdim=True)
    fit = torch.where(member @ kept == size, member @ squares / size, -1.0)
    fit[:, partners] = -1.0
    best = fit.max(0)
    home = torch.where(best.values > 0, best.indices, -1)
    for i, block in enumerate(blocks):
        yield rows[block], torch.cat([partners[block], (home == i).nonzero().flatten()])


def _cliques(agree: Tensor) -> Iterator[Tensor]:
    """Yield groups of rows that agree with each other, each row in one group.

    Args:
        agree: symmetric bool tensor [n, n], True on the diagonal.
    """
    free = torch.ones(len(agree), dtype=torch.bool)
    while bool(free.any()):
        row = int(free.nonzero()[0])
        candidates = (agree[row] & free).nonzero().flatten()
        common = agree[candidates][:, candidates]
        # those that agree with the most candidates first
        order = common.sum(1).argsort(descending=True, stable=True)
        order = torch.cat([order[candidates[order] == row], order[candidates[order] != row]])
        chosen, possible = [], torch.ones(len(candidates), dtype=torch.bool)
        while bool(possible[order].any()):
            place = int(order[possible[order]][0])
            chosen.append(place)
            possible &= common[place]
            possible[place] = False
        block = candidates[chosen].sort().values
        free[block] = False
        yield block
