"""A correction that draws exactly orthogonal sparse weights, as products of Givens rotations."""

import torch
from torch import Tensor

from spl.isometry.drawn import Drawn, middle_tap

_PATIENCE = 8  # the search ends after so many rounds in a row in which no rotation fits


class EOI(Drawn):
    """Exact orthogonal initialization (EOI): new masks of the same densities, and sparse weights with V Vᵀ = σ² I.

    Nowak et al. 2024 (Sparser, Better, Deeper, Stronger). A random partial permutation is rotated in random planes of
    its rows and columns until it has as many entries as the mask keeps. In a convolution this matrix is the middle
    tap, so that the convolution itself is an isometry (delta-orthogonal). Masks and weights are both replaced; only
    the number of kept weights of each layer stays. Entries that no rotation fills exactly are kept too, and start at
    0. A layer that keeps fewer weights than its smaller side has rows cannot be orthogonal. It becomes a partial
    permutation, at the floor of its residual.

    Args:
        gain: σ; see `Correction`.
        seed: the seed of the draws, which are made on the CPU and so are equal on every process and device; null for
            a number that the seed of the run decides.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.isometry import EOI
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> masks, changes = EOI(seed=0)(network, prune(network, Magnitude(), sparsity=0.5))
        >>> changes["0.weight"].after.matrix, changes["0.weight"].gain
        (0.00, 1.41)
    """

    redraws = True

    def draw(self, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw weights whose middle tap is a sparse orthogonal matrix, and a mask of as many entries as `mask` has."""
        entries = int(mask.sum())
        n, m = sorted(mask.shape[:2])
        matrix = sparse_orthogonal(n, m, entries, generator)
        weight = torch.zeros(mask.shape, dtype=torch.float64)
        middle = middle_tap(mask.shape)
        weight[middle] = matrix if len(mask) == n else matrix.mT
        kept = weight != 0
        inside = torch.zeros_like(kept)
        inside[middle] = True
        # entries that are left over go to random places, those of the middle tap first
        order = torch.rand(kept.shape, generator=generator) + inside.float() + 2 * kept.float()
        kept.view(-1)[order.flatten().argsort(descending=True)[:entries]] = True
        return weight, kept


def sparse_orthogonal(n: int, m: int, entries: int, generator: torch.Generator) -> Tensor:
    """Draw a random matrix V [n, m] with at most `entries` nonzero entries and, if that many allow it, V Vᵀ = I.

    Rotations in disjoint planes are made together. Each round pairs rows, or columns, at random. It rotates the first
    pairs whose new entries still fit into what is left of `entries`. With fewer than n entries, V Vᵀ has as many ones
    on its diagonal as there are entries.

    Args:
        n: the number of rows, at most m.
        m: the number of columns.
        entries: the most entries that may be nonzero.
        generator: a random generator on the CPU.

    Returns:
        Tensor [n, m] in float64.

    Example:
        >>> import torch
        >>> from spl.isometry.givens import sparse_orthogonal
        >>> matrix = sparse_orthogonal(3, 5, entries=8, generator=torch.Generator().manual_seed(0))
        >>> (matrix != 0).sum().item(), torch.linalg.svdvals(matrix).tolist()
        (8, [1.00, 1.00, 1.00])
    """
    rank = min(n, entries)
    matrix = torch.zeros(n, m, dtype=torch.float64)
    signs = torch.randint(2, (rank,), generator=generator, dtype=torch.float64) * 2 - 1
    matrix[torch.randperm(n, generator=generator)[:rank], torch.randperm(m, generator=generator)[:rank]] = signs
    filled = matrix != 0
    left, idle = entries - rank, 0
    axis = 0
    while left > 0 and idle < _PATIENCE and rank == n:
        added = _rotate_(matrix if axis == 0 else matrix.mT, filled if axis == 0 else filled.mT, left, generator)
        idle = 0 if added else idle + 1
        left -= added
        axis = 1 - axis
    return matrix


def _rotate_(matrix: Tensor, filled: Tensor, left: int, generator: torch.Generator) -> int:
    """Rotate random disjoint pairs of rows in place, and return how many entries were filled, at most `left`."""
    half = len(matrix) // 2
    order = torch.randperm(len(matrix), generator=generator)
    a, b = order[:half], order[half : 2 * half]
    union = filled[a] | filled[b]
    cost = 2 * union.sum(1) - filled[a].sum(1) - filled[b].sum(1)
    fits = cost.cumsum(0) <= left
    a, b, union = a[fits], b[fits], union[fits]
    angle = torch.rand(len(a), 1, generator=generator, dtype=torch.float64) * 2 * torch.pi
    cosine, sine = angle.cos(), angle.sin()
    first, second = matrix[a], matrix[b]
    matrix[a], matrix[b] = cosine * first - sine * second, sine * first + cosine * second
    filled[a] = filled[b] = union
    return int(cost[fits].sum())
