import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from subjects import subject
from torch import Tensor, nn

from spl.criteria import SAO, Magnitude
from spl.criteria.sao import block_ranks
from spl.isometry import SparseOrthogonal
from spl.isometry.sparse_orthogonal import orthogonal_under
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.networks import MLP, VGG16
from spl.pruning import prune
from spl.pruning.scopes import ERK


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kept(outputs: int, inputs: int, taps: int, keep: int, seed: int = 0) -> Tensor:
    return block_ranks(outputs, inputs, taps, keep, generator(seed)) < keep


def blocks(mask: Tensor) -> list[tuple[int, int]]:
    """Return the rows of each block of a mask, and its columns, along the smaller side."""
    wide = mask if mask.shape[0] <= mask.shape[1] else mask.mT
    supports, numbers = torch.unique(wide.int(), dim=0, return_counts=True)
    assert int(supports.sum(0).max()) == 1  # no two blocks share a column
    return [(int(n), int(s.sum())) for s, n in zip(supports, numbers, strict=True)]


# The masks


def test_two_blocks_of_a_small_layer_by_hand():
    mask = kept(4, 6, 1, 12)[:, :, 0]
    assert blocks(mask) == [(2, 3), (2, 3)]
    assert blocks(mask.mT) == [(2, 3), (2, 3)]
    assert blocks(kept(3, 5, 1, 15)[:, :, 0]) == [(3, 5)]


# outputs, inputs and degree, with the number of blocks and their rows and columns in the authors' code (commit 1999000,
# with the activation tanh, under which it does not mirror the weights)
PUBLISHED = [
    ((8, 12, 3), 4, (2, 3)),
    ((12, 8, 3), 4, (2, 3)),
    ((16, 16, 4), 4, (4, 4)),
    ((8, 16, 4), 4, (2, 4)),
    ((64, 128, 16), 8, (8, 16)),
    ((128, 64, 16), 8, (8, 16)),
    ((10, 64, 32), 2, (5, 32)),
    ((9, 12, 4), 3, (3, 4)),
]


@pytest.mark.parametrize(("shape", "number", "block"), PUBLISHED)
def test_masks_have_the_blocks_of_the_published_code(shape, number, block):
    outputs, inputs, degree = shape
    masks = prune(nn.Linear(inputs, outputs), SAO(), 1 - degree / max(outputs, inputs))
    assert blocks(masks["weight"]) == number * [block]


@pytest.mark.parametrize(("shape", "number", "block"), PUBLISHED)
def test_degrees_are_equal_and_singular_values_that_are_not_the_largest_within_the_bound(shape, number, block):
    outputs, inputs, degree = shape
    mask = kept(outputs, inputs, 1, degree * min(outputs, inputs))[:, :, 0]
    degrees = [sum_.unique().tolist() for sum_ in (mask.sum(0), mask.sum(1))]
    assert all(len(values) == 1 for values in degrees)
    of_rows, of_columns = degrees[1][0], degrees[0][0]
    values = torch.linalg.svdvals(mask.double())
    largest = math.sqrt(of_rows * of_columns)
    torch.testing.assert_close(values[:number], torch.full((number,), largest, dtype=torch.float64))
    assert float(values[number:].max()) <= math.sqrt(of_rows - 1) + math.sqrt(of_columns - 1)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 9]), st.floats(0, 1), st.integers(0, 99))
def test_the_order_is_a_permutation_and_degrees_of_the_smaller_side_are_even(outputs, inputs, taps, share, seed):
    keep = max(1, round(share * outputs * inputs * taps))
    ranks = block_ranks(outputs, inputs, taps, keep, generator(seed))
    assert ranks.flatten().sort().values.tolist() == list(range(outputs * inputs * taps))
    mask = ranks < keep
    degrees = mask.flatten(2).any(2).sum(1 if outputs <= inputs else 0)
    assert int(degrees.max() - degrees.min()) <= 2
    if keep >= min(outputs, inputs):
        assert int(degrees.min()) >= 1


def test_surplus_weights_are_spread_evenly():
    mask = kept(8, 12, 1, 30)[:, :, 0]  # 4 blocks have 24 weights, 3 have 32
    assert int(mask.sum()) == 30
    assert set(mask.sum(1).tolist()) == {3, 4}
    assert set(mask.sum(0).tolist()) <= {2, 3}


def test_convolutions_keep_whole_kernels_and_fewer_taps_where_the_smaller_side_needs_them():
    mask = kept(8, 8, 9, 144)
    assert set(mask.sum(2).flatten().tolist()) == {0, 9}
    few = kept(8, 8, 9, 24)
    assert set(few.sum(2).flatten().tolist()) == {0, 3}
    assert few[:, :, 4].sum(0).tolist() == few[:, :, 4].sum(1).tolist() == [1] * 8  # the middle tap


def test_all_layers_have_the_same_density_and_groups_are_matrices_of_their_own():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Linear(16, 12), nn.GRU(6, 4))
    masks = prune(network, SAO(), 0.5)
    assert masks.layer_sparsity() == dict.fromkeys(masks, 0.5)
    halves = masks["0.weight"].chunk(2)
    assert [int(half.sum()) for half in halves] == [36, 36]
    assert [int(gate.sum()) for gate in masks["2.weight_hh_l0"].chunk(3)] == [8, 8, 8]


def test_biases_are_last():
    scores = SAO()(subject(nn.Linear(3, 2), keep=4))
    assert float(scores["bias"].max()) < float(scores["weight"].min())


def test_other_scopes_are_met_too():
    network = VGG16(0.125)
    masks = prune(network, SAO(), 0.9, scope=ERK())
    assert masks.layer_sparsity() == prune(network, Magnitude(), 0.9, scope=ERK()).layer_sparsity()


# The weights


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 1), st.integers(0, 99))
def test_the_masks_admit_exactly_orthogonal_weights_in_all_of_their_blocks(outputs, inputs, share, seed):
    n = min(outputs, inputs)
    keep = max(n, round(share * outputs * inputs))
    mask = kept(outputs, inputs, 1, keep, seed)[:, :, 0]
    matrix = orthogonal_under(mask, generator(seed))
    gram = matrix @ matrix.mT if outputs <= inputs else matrix.mT @ matrix
    torch.testing.assert_close(gram, torch.eye(n, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not matrix[~mask].any()


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_any_mask_gets_singular_values_of_one_as_many_as_it_has_rank(n, m, density, seed):
    mask = torch.rand(n, m, generator=generator(seed)) < density
    values = torch.linalg.svdvals(orthogonal_under(mask, generator(seed)))
    rank = int(torch.linalg.matrix_rank(torch.randn(n, m, generator=generator(1), dtype=torch.float64) * mask))
    torch.testing.assert_close(values, (torch.arange(min(n, m)) < rank).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("outputs", "inputs", "keep"), [(16, 16, 64), (64, 128, 1024), (30, 20, 200), (8, 8, 8)])
def test_all_weights_of_blocks_are_used(outputs, inputs, keep):
    mask = kept(outputs, inputs, 1, keep)[:, :, 0]
    assert torch.equal(orthogonal_under(mask, generator()) != 0, mask)


def test_surplus_weights_do_not_break_the_blocks():
    mask = kept(40, 60, 1, 450)[:, :, 0]  # 6 blocks of 400 weights, and 50 others
    assert int((orthogonal_under(mask, generator()) != 0).sum()) == 400


def test_one_block_is_drawn_uniformly():
    first = torch.stack([orthogonal_under(torch.ones(2, 2) > 0, generator(seed))[0] for seed in range(300)])
    assert first.mean(0).abs().max() < 0.15
    torch.testing.assert_close(first.mT @ first / 300, torch.eye(2, dtype=torch.float64) / 2, atol=0.06, rtol=0)


def test_the_masks_stay_and_every_layer_is_an_isometry():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(20, 9)
    )
    masks = prune(network, SAO(), 0.5)
    bias = network[0].bias.detach().clone()
    after, changes = SparseOrthogonal(gain=1.5)(network, masks)
    assert after == masks
    assert torch.equal(network[0].bias, bias)
    assert after.revived(dict(network.named_parameters())) == {}
    for name, change in changes.items():
        assert change.after.operator <= 1e-5, name
        assert change.gain == 1.5


def test_a_linear_network_has_singular_values_of_one():
    network = MLP(depth=5, width=30, activation="linear", in_features=40, out_features=10)
    SparseOrthogonal()(network, prune(network, SAO(), 0.9))
    values = singular_values(network, torch.randn(2, 40))
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)


def test_the_gain_is_that_of_the_activation():
    network = MLP(depth=3, width=20, activation="relu", in_features=20)
    changes = SparseOrthogonal()(network, prune(network, SAO(), 0.8)).changes
    assert changes["fc1.weight"].gain == pytest.approx(math.sqrt(2))


def test_too_few_weights_leave_the_layer_at_the_floor():
    network = nn.Sequential(nn.Linear(6, 6))
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[torch.arange(4), torch.arange(4)] = True
    change = SparseOrthogonal()(network, Masks({"0.weight": mask})).changes["0.weight"]
    assert change.rank == 4
    assert change.after.matrix == pytest.approx(math.sqrt(2)) == pytest.approx(change.floor)
