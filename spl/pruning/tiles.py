"""The best transposable N:M masks: of each tile of a weight, the one with the largest sum of scores."""

from itertools import product

import torch
from torch import Tensor

LARGEST_TILE = 4
_AT_A_TIME = 1 << 16  # tiles: the 90 masks of each take 47 MB


def best_tile_masks(scores: Tensor, n: int, m: int) -> Tensor:
    """Return the mask [out, in, ...] that keeps n weights in each row and column of every m×m tile.

    Of the masks of a tile it has the one with the largest sum of scores, of equal ones any. A mask that keeps a pruned
    weight, whose score is the lowest number of its type, loses to any that keeps none.

    Args:
        scores: finite scores [out, in, ...]. Both dimensions are multiples of m.
        n: how many weights of each row and column of a tile are kept.
        m: the side of a tile, at most `LARGEST_TILE`.
    """
    last = scores.detach().double().movedim((0, 1), (-2, -1))
    *rest, rows, columns = last.shape
    tiles = last.reshape(*rest, rows // m, m, columns // m, m).transpose(-3, -2)
    masks = _tile_masks(n, m).to(scores.device)
    best = torch.cat([(some @ masks.T).argmax(1) for some in torch.split(tiles.reshape(-1, m**2), _AT_A_TIME)])
    kept = masks[best].view(tiles.shape).transpose(-3, -2).reshape(last.shape)
    return kept.bool().movedim((-2, -1), (0, 1)).contiguous()


def _tile_masks(n: int, m: int) -> Tensor:
    """Return all m×m matrices of 0 and 1 with n ones in each row and each column: [masks, m²], in float64."""
    rows = [row for row in product((0.0, 1.0), repeat=m) if sum(row) == n]
    found = [mask for mask in product(rows, repeat=m) if all(sum(column) == n for column in zip(*mask, strict=True))]
    return torch.tensor(found, dtype=torch.float64).flatten(1)
