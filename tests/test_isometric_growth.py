"""Values of weights that grow, which bring their layer nearer to isometry."""

import pytest
import torch

from spl.isometry import isometric_growth, isometry_residual


@pytest.mark.parametrize(
    ("weight", "new", "value"),
    [
        ([[0.8, 0.6], [0.0, 0.8]], (1, 0), -0.6),  # orthogonal to the first row, and of length 1
        ([[1.0, 0.0], [0.6, 0.0]], (1, 1), 0.8),
        ([[2.0, 0.0], [0.0, 0.0]], (1, 1), 1.0),  # from 0 nothing would move
    ],
)
def test_the_value_is_the_one_that_makes_rows_orthogonal_and_of_length_1(weight, new, value):
    weight = torch.tensor(weight)
    grown = torch.zeros(2, 2, dtype=torch.bool)
    grown[new] = True
    result = isometric_growth(weight, (weight != 0) | grown, grown, gain=1.0)
    assert abs(result[new].item()) == pytest.approx(abs(value), abs=0.05)
    assert value > 0 or result[new] < 0
    assert torch.equal(result[~grown], weight[~grown])


@pytest.mark.parametrize(("shape", "groups"), [((20, 30), 1), ((30, 20), 1), ((12, 4, 3, 3), 1), ((12, 2, 3, 3), 3)])
def test_only_grown_entries_change_and_the_residual_falls(shape, groups):
    torch.manual_seed(0)
    weight, kept = torch.randn(shape) / shape[0] ** 0.5, torch.rand(shape) < 0.5
    grown = kept & (torch.rand(shape) < 0.4)
    old = (weight * (kept & ~grown)).clone()
    result = isometric_growth(old, kept, grown, gain=1.0, groups=groups)
    assert result.shape == old.shape
    assert torch.equal(result[~grown], old[~grown])
    assert not result[~kept].any()
    assert isometry_residual(result, groups=groups) < 0.95 * isometry_residual(old, groups=groups)
    assert torch.equal(result, isometric_growth(old, kept, grown, gain=1.0, groups=groups))


def test_half_precision_and_layers_without_other_weights_stay_finite():
    grown = torch.eye(3, dtype=torch.bool)
    result = isometric_growth(torch.zeros(3, 3, dtype=torch.bfloat16), grown, grown, gain=2.0)
    assert result.dtype == torch.bfloat16
    assert result.diagonal().abs().tolist() == pytest.approx([2.0, 2.0, 2.0], rel=0.05)
