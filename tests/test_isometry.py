import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import structural_rank
from torch import Tensor, nn

from spl.errors import InputError
from spl.isometry import ApproximateIsometry, isometry_residual
from spl.masks import Masks

SHAPES = [(6, 6), (3, 8), (8, 3), (1, 5), (5, 1), (4, 2, 3, 3), (16, 1, 2, 2)]


def masked(weight: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Masks]:
    masks = Masks({"fc1.weight": mask})
    weights = {"fc1.weight": weight}
    masks.apply_(weights)
    return weights, masks


def correct(weight: Tensor, mask: Tensor | None = None, **options):
    """Apply the mask, correct, and return the residuals before and after."""
    everything = torch.ones(weight.shape, dtype=torch.bool)
    return ApproximateIsometry(**options)(*masked(weight, everything if mask is None else mask))["fc1.weight"]


def orthonormal(weight: Tensor, gain: float = 1.0) -> Tensor:
    """How far the singular values are from the gain."""
    return (torch.linalg.svdvals(weight.detach().flatten(1).double()) - gain).abs().max()


def test_residual_by_hand():
    # W W^T - I = [[1 + 4 - 1, 0 + 2], [2, 1 - 1]] = [[4, 2], [2, 0]]
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert float(isometry_residual(weight)) == pytest.approx(math.sqrt(16 + 4 + 4))
    # with gain 2: W W^T - 4 I = [[1, 2], [2, -3]]
    assert float(isometry_residual(weight, gain=2.0)) == pytest.approx(math.sqrt(1 + 4 + 4 + 9))


def test_residual_takes_the_gram_matrix_of_the_smaller_side():
    tall = torch.tensor([[1.0], [1.0], [1.0]])
    assert float(isometry_residual(tall)) == float(isometry_residual(tall.T)) == 2.0


def test_residual_of_a_kernel_is_that_of_its_reshaped_matrix():
    kernel = torch.randn(4, 2, 3, 3)
    assert float(isometry_residual(kernel)) == float(isometry_residual(kernel.view(4, 18)))


def smaller_side(shape: tuple[int, ...]) -> int:
    return min(shape[0], math.prod(shape[1:]))


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_is_zero_where_every_singular_value_is_the_gain(shape, gain):
    weight = nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64), gain)
    assert float(isometry_residual(weight, gain)) < 1e-12
    assert float(isometry_residual(weight, 2 * gain)) == pytest.approx(3 * gain**2 * math.sqrt(smaller_side(shape)))


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_dense_layer_becomes_an_isometry(shape, gain):
    weight = torch.randn(shape)
    before, after = correct(weight, gain=gain)
    assert before > 0.1
    assert after < 1e-3
    assert orthonormal(weight, gain) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_keep_their_precision(dtype):
    weight = torch.randn(6, 9).to(dtype)
    assert correct(weight).after < (1e-3 if dtype == torch.float64 else 0.03)
    assert weight.dtype == dtype


def test_a_diagonal_becomes_plus_and_minus_one():
    weight = torch.diag(torch.tensor([0.3, -2.0, 0.7, -0.1]))
    before, after = correct(weight, torch.eye(4, dtype=torch.bool))
    assert before == pytest.approx(math.sqrt(0.91**2 + 3.0**2 + 0.51**2 + 0.99**2))
    assert after < 1e-3
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0])), atol=1e-3, rtol=0)


def test_a_permutation_is_found_in_a_mask_that_has_one():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    weight = torch.tensor([[0.4, 0.3, 0.0], [0.0, 0.5, -0.2], [0.0, 0.0, -0.6]])
    assert correct(weight, mask).after < 1e-3
    # an upper triangle with orthonormal rows is diagonal
    torch.testing.assert_close(weight, torch.diag(torch.tensor([1.0, 1.0, -1.0])), atol=0.03, rtol=0)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A random layer of a random scale, its mask with empty rows, columns, or nothing at all."""
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    weight = torch.randn(rows, columns, generator=generator) * draw(st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
    mask = torch.rand(rows, columns, generator=generator) < draw(st.floats(0.0, 1.0))
    return weight, mask


@given(layers(), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_correction_never_makes_it_worse_nor_beats_the_structural_rank(layer, gain):
    weight, mask = layer
    before, after = correct(weight, mask, gain=gain)
    tolerance = 1e-5 * gain**2
    assert after <= before + tolerance
    floor = gain**2 * math.sqrt(min(mask.shape) - structural_rank(csr_array(mask.numpy())))
    assert after >= floor - tolerance
    assert weight.isfinite().all()
    assert not weight[~mask].any()


def test_the_floor_of_the_structural_rank_is_reached():
    # rows 0 and 1 share their only column, row 2 is empty: structural rank 2 of 4
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    weight = torch.randn(4, 4)
    assert structural_rank(csr_array(mask.numpy())) == 2
    assert correct(weight, mask).after == pytest.approx(math.sqrt(2), abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sparse_layer_comes_closer_and_its_pruned_weights_stay_zero(shape):
    weight = torch.randn(shape) * 0.1
    mask = torch.rand(shape) < 0.6
    before, after = correct(weight, mask)
    assert after < before
    assert not weight[~mask].any()
    assert (weight[mask] != 0).all()
    assert after == pytest.approx(float(isometry_residual(weight.double())), abs=1e-12)


def test_a_layer_that_lost_every_weight_stays_zero():
    weight = torch.randn(3, 4)
    assert correct(weight, torch.zeros(3, 4, dtype=torch.bool)) == (math.sqrt(3), math.sqrt(3))
    assert not weight.any()


def test_every_layer_is_corrected_and_nothing_else_is_touched(snapshot):
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    network(torch.randn(3, 6)).square().sum().backward()
    masks = Masks({f"{i}.weight": torch.rand_like(network[i].weight) < 0.8 for i in (0, 2)})
    masks.apply_(dict(network.named_parameters()))
    before = snapshot(network)
    weights = {name: p for name, p in network.named_parameters() if name in masks}
    expected = {name: float(isometry_residual(p.detach().double())) for name, p in weights.items()}
    residuals = ApproximateIsometry()(weights, masks)
    assert {name: r.before for name, r in residuals.items()} == expected
    assert all(r.after < r.before for r in residuals.values())
    after = snapshot(network)
    changed = [name for name in before["tensors"] if before["tensors"][name] != after["tensors"][name]]
    assert changed == ["0.weight", "2.weight"]
    assert before | {"tensors": None} == after | {"tensors": None}
    assert masks.revived(weights) == {}


def test_a_layer_is_corrected_whatever_its_memory_layout():
    mask = torch.rand(4, 3, 2, 2) < 0.7
    plain = torch.randn(4, 3, 2, 2)
    channels_last = plain.clone().to(memory_format=torch.channels_last)
    correct(plain, mask)
    correct(channels_last, mask)
    assert torch.equal(plain, channels_last)


def test_a_correction_is_deterministic_and_works_without_gradients():
    start, mask = torch.randn(7, 9), torch.rand(7, 9) < 0.5
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weight = start.clone()
        with torch.no_grad():
            correct(weight, mask)
        results.append(weight)
    assert torch.equal(*results)


def test_more_iterations_come_closer():
    start = torch.randn(8, 8)
    residuals = [correct(start.clone(), max_iterations=n).after for n in (1, 5, 500)]
    assert residuals[0] > 2 * residuals[1] > 4 * residuals[2]


def test_an_isometry_is_left_as_it_is():
    start = nn.init.orthogonal_(torch.empty(10, 10))
    weight = start.clone()
    correct(weight)
    torch.testing.assert_close(weight, start, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_a_gain_that_is_not_positive_is_an_error(gain):
    with pytest.raises(InputError, match=f"gain must be positive, got {gain}"):
        ApproximateIsometry(gain=gain)


def test_no_iterations_are_an_error():
    with pytest.raises(InputError, match="max_iterations must be at least 1, got 0"):
        ApproximateIsometry(max_iterations=0)
