from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from spl.criteria import Random
from spl.isometry import ApproximateIsometry
from spl.isometry.operator import Frequencies
from spl.isometry.pruned_layer import PrunedLayer
from spl.isometry.solver import KeptEntries, _first_minimum, _Memory, minimize
from spl.pruning import prune

STRIDED = {"stride": [2], "groups": 2}
NO_FLOOR = torch.zeros(1, dtype=torch.float64)


def dense(n: int, m: int, problems: int = 1) -> KeptEntries:
    return KeptEntries(torch.ones(problems, n, m, dtype=torch.bool))


@pytest.mark.parametrize(
    "matrices",
    [
        KeptEntries(torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.4),
        Frequencies(PrunedLayer("k", torch.randn(3, 4, 3, 2), torch.rand(3, 4, 3, 2) < 0.5, 1.0)),
        Frequencies(PrunedLayer("k", torch.randn(4, 2, 3), torch.rand(4, 2, 3) < 0.9, 1.0, STRIDED)),
    ],
)
def test_gather_is_the_adjoint_of_spread(matrices):
    if isinstance(matrices, KeptEntries):
        x = torch.randn(matrices.places.shape) * (matrices.places < 24)
    else:
        x = torch.randn(1, int(matrices.layer.mask.sum()))
    v = matrices.spread(x)
    w = torch.randn_like(v)
    left = (v.conj() * w).real.sum((1, 2, 3))
    torch.testing.assert_close(left, (x * matrices.gather(w)).sum(1), atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(0.01, 3) | st.floats(-3, -0.01), min_size=3, max_size=3), st.floats(-12, 12))
def test_the_first_minimum_of_a_line_is_the_smallest_positive_root_of_its_slope(roots, scale):
    """Slopes 4 (t − r₁)(t − r₂)(t − r₃) s; double roots, where the slope only touches zero, are left out."""
    assume(min(abs(r - s) for r, s in combinations(roots, 2)) > 0.05)
    polynomial = 10.0**scale * 4 * np.poly(roots)  # highest power first
    d, c, b, a = polynomial / np.array([4, 3, 2, 1])
    found = float(_first_minimum(torch.tensor([[a], [b], [c], [d]], dtype=torch.float64)))
    if a >= 0:  # the line goes uphill from the start
        assert found == 0.0
    else:
        assert found == pytest.approx(min(r for r in roots if r > 0), rel=1e-3)


def test_an_isometry_is_found_exactly_by_hand():
    # one row (3, 4) of norm 5 moves to (0.6, 0.8) on the line to the origin
    result, norms = minimize(dense(1, 2), torch.tensor([[3.0, 4.0]]), NO_FLOOR, 1e-6, 10)
    torch.testing.assert_close(result, torch.tensor([[0.6, 0.8]]))
    assert float(norms) < 1e-6


def test_nothing_is_done_within_the_tolerance_or_without_iterations():
    start = torch.tensor([[0.6, 0.81]])
    for tolerance, iterations in ((0.1, 10), (1e-6, 0)):
        result, norms = minimize(dense(1, 2), start, NO_FLOOR, tolerance, iterations)
        assert torch.equal(result, start)
        assert float(norms) == pytest.approx(0.36 + 0.81**2 - 1, rel=1e-4)


def test_problems_of_a_batch_do_not_disturb_each_other():
    start = torch.randn(5, 12)
    together, norms = minimize(dense(3, 4, 5), start, NO_FLOOR.expand(5), 1e-6, 200)
    assert float(norms.max()) < 1e-6
    for alone, expected in zip(start, together, strict=True):
        result, _ = minimize(dense(3, 4), alone[None], NO_FLOOR, 1e-6, 200)
        torch.testing.assert_close(result[0], expected, atol=1e-4, rtol=0)


def test_a_problem_that_has_ended_stays_where_it_is_while_most_others_go_on():
    start = torch.randn(3, 12)
    start[1] = torch.eye(3, 4).flatten() * 1.01
    result, norms = minimize(dense(3, 4, 3), start, NO_FLOOR.expand(3), 0.05, 200)
    assert torch.equal(result[1], start[1])
    assert float(norms.max()) < 0.05


def test_a_descent_that_gets_no_nearer_ends():
    # two rows in one column: V Vᵀ − I is [[a² − 1, ab], [ab, b² − 1]], at best of norm 1
    result, norms = minimize(dense(2, 1), torch.tensor([[0.5, 0.1]]), NO_FLOOR, 1e-6, 10**6)
    assert float(norms) == pytest.approx(1.0)
    assert float(result.norm()) == pytest.approx(1.0)


def test_float64_comes_closer():
    start = torch.randn(1, 12, dtype=torch.float64)
    _, norms = minimize(dense(3, 4), start, NO_FLOOR, 1e-12, 500)
    assert float(norms) < 1e-12


def test_a_step_whose_curvature_rounding_has_made_negative_turns_no_direction_uphill():
    """As in float32 near an optimum, where changes of the gradient are of the size of its errors."""
    memory = _Memory()
    memory.direction(torch.tensor([[1.0, 0.0]]))
    memory.add(torch.tensor([[-1.0, 0.0]]))
    assert memory.direction(torch.tensor([[3.0, 0.0]])).tolist() == [[-3.0, 0.0]]


@pytest.mark.parametrize(
    "lower",
    [
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    ],
    ids=["Lightning's advice", "cuda", "mkldnn"],
)
def test_what_training_may_round_the_correction_does_not(lower):
    """The floor is reached, the settings stay, and asking torch for them raises an error where they are mixed."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("settings of torch 2.9")
    holders = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3)
    masks = prune(nn.Sequential(layer), Random(seed=0), sparsity=0.7)
    lower()
    try:
        before = [holder.fp32_precision for holder in holders]
        changes = ApproximateIsometry(gain=1.0, tolerance=0.0)(nn.Sequential(layer), masks).changes
        assert [holder.fp32_precision for holder in holders] == before
    finally:
        torch.set_float32_matmul_precision("highest")
    change = changes["0.weight"]
    assert change.after.matrix - change.floor < 1e-3
