"""The structure that masks have: whole channels, blocks, or n of every m weights."""

import math

from torch import Tensor

from spl.masks.masks import Masks

_ENOUGH = 32  # weights that differ from most others of their layer; fewer may lie in a structure by chance
_GROUPS = (2, 4, 8, 16)  # sizes m of the groups of n:m sparsity that are in use


def structure_of(masks: Masks) -> str | None:
    """Return in words the structure that the masks of all larger layers have; None for masks of single weights.

    It is found in the masks themselves, whoever made them. Layers count in which at least 32 weights are kept and 32
    are pruned: that all of these have a structure by chance is as good as impossible. But criteria that look at paths
    (SynFlow, PX) choose single weights where some rows cross some columns, if they keep few. So whole channels of
    inputs and outputs at once are only found in two layers or more.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates.structure import structure_of
        >>> structure_of(Masks({"weight": torch.tensor([[True] * 16, [False] * 16] * 8)}))
        'whole channels'
        >>> structure_of(Masks({"weight": torch.rand(16, 16) < 0.5}))
    """
    layers = [mask for mask in masks.values() if _tells(mask)]
    if not layers:
        return None
    matrices = [mask.flatten(1) for mask in layers]
    if all(map(_is_product, matrices)) and (len(matrices) > 1 or _is_whole(matrices[0]) or _is_whole(matrices[0].T)):
        return "whole channels"
    if (columns := math.gcd(*(k for matrix in matrices for k in _changes(matrix)))) > 1:
        return f"blocks of {columns} weights along the inputs"
    if (rows := math.gcd(*(k for matrix in matrices for k in _changes(matrix.T)))) > 1:
        return f"blocks of {rows} weights along the outputs"
    for m in _GROUPS:
        if all(_is_even(mask, m) for mask in layers) and any(mask.shape[1] > m for mask in layers):
            return f"equally many of every {m} weights along the inputs"
    return None


def _tells(mask: Tensor) -> bool:
    """Return whether a mask is large enough, and mixed enough, to tell its structure."""
    kept = int(mask.count_nonzero())
    return mask.dim() > 1 and min(len(mask), mask[0].numel()) > 1 and _ENOUGH <= kept <= mask.numel() - _ENOUGH


def _is_product(matrix: Tensor) -> bool:
    """Return whether the kept weights are those at which kept rows cross kept columns."""
    return bool((matrix == (matrix.any(1, keepdim=True) & matrix.any(0))).all())


def _is_whole(matrix: Tensor) -> bool:
    """Return whether each row is kept or pruned as a whole."""
    return bool((matrix == matrix[:, :1]).all())


def _changes(matrix: Tensor) -> list[int]:
    """Return the columns that differ from the one before."""
    found: list[int] = (matrix[:, 1:] != matrix[:, :-1]).any(0).nonzero().flatten().add(1).tolist()
    return found


def _is_even(mask: Tensor, m: int) -> bool:
    """Return whether each group of m weights along the inputs keeps the same number."""
    if mask.shape[1] % m:
        return False
    counts = mask.movedim(1, -1).reshape(-1, m).sum(1)
    return bool((counts == counts[0]).all())
