import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spl.isometry import isometry_floor, structural_rank
from spl.isometry.structure import heaviest_matching


@st.composite
def masked_weights(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw a matrix of up to 4×5 and a mask; weights may be 0, equal, or of any size."""
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    entries = st.sampled_from([0.0, 1.0, -1.0, 0.3, -2.5, 1e-20, 1e20])
    weight = torch.tensor(draw(st.lists(entries, min_size=n * m, max_size=n * m))).view(n, m)
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))).view(n, m)
    return weight, mask


def best_by_trying(weight: Tensor, mask: Tensor) -> tuple[int, float]:
    """Return, by trying all, the size of a maximum matching under `mask` and its largest sum of absolute weights."""
    n, m = mask.shape
    wide = torch.zeros(n, m + n, dtype=torch.bool)
    wide[:, :m] = mask
    best = (0, 0.0)
    for columns in permutations(range(m + n), n):
        chosen = [(i, j) for i, j in enumerate(columns) if wide[i, j]]
        best = max(best, (len(chosen), sum(abs(float(weight[i, j])) for i, j in chosen)))
    return best


def test_rank_and_floor_by_hand():
    # rows 0 and 1 share their only column, row 2 is empty
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    assert structural_rank(mask) == 2
    assert isometry_floor(mask) == pytest.approx(math.sqrt(2))
    assert isometry_floor(mask, gain=3.0) == pytest.approx(9 * math.sqrt(2))
    assert structural_rank(mask.T) == 2
    # along the smaller side
    assert isometry_floor(mask[:, :1]) == 0.0
    assert isometry_floor(mask[:3]) == pytest.approx(math.sqrt(2))


def test_kernels_are_matrices_and_groups_matrices_of_their_own():
    kernel = torch.zeros(4, 1, 2, dtype=torch.bool)
    kernel[0, 0, 0] = kernel[1, 0, 1] = kernel[2, 0, 0] = kernel[3, 0, 0] = True
    assert structural_rank(kernel) == 2
    assert isometry_floor(kernel) == 0.0
    # two 2×2 matrices, of rank 2 and 1
    assert structural_rank(kernel, groups=2) == 3
    assert isometry_floor(kernel, groups=2) == 1.0


@given(masked_weights())
def test_the_matching_is_a_heaviest_of_the_largest_partial_permutations(case):
    weight, mask = case
    matched = torch.zeros_like(mask)
    matched[mask] = heaviest_matching(weight[mask], mask)
    rows, columns = matched.nonzero(as_tuple=True)
    assert len(set(rows.tolist())) == len(rows) == len(set(columns.tolist()))
    size, total = best_by_trying(weight, mask)
    assert len(rows) == size == structural_rank(mask)
    assert float(weight[rows, columns].abs().double().sum()) == pytest.approx(total)
