"""Corrections other than approximate isometry: EOI and the edge of chaos."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spl.initializers import LeCunNormal
from spl.isometry import EOI, EdgeOfChaos
from spl.isometry.givens import sparse_orthogonal
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.networks import MLP, ResNet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# EOI


@given(st.integers(1, 12), st.integers(0, 12), st.floats(0, 1), st.integers(0, 99))
def test_sparse_orthogonal_matrices_are_exactly_that_wherever_the_entries_admit_it(n, more, share, seed):
    m = n + more
    entries = round(share * n * m)
    matrix = sparse_orthogonal(n, m, entries, generator(seed))
    assert int((matrix != 0).sum()) <= entries
    gram = matrix @ matrix.mT
    if entries >= n:
        torch.testing.assert_close(gram, torch.eye(n, dtype=torch.float64), atol=1e-12, rtol=0)
    else:
        assert gram.diagonal().round().sum() == entries
        torch.testing.assert_close(gram, torch.diag(gram.diagonal().round()), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("n", "m", "density"), [(100, 100, 0.2), (64, 576, 0.05), (100, 784, 0.03), (40, 40, 1.0)])
def test_rotations_use_nearly_all_of_the_entries(n, m, density):
    entries = round(density * n * m)
    filled = sparse_orthogonal(n, m, entries, generator()) != 0
    assert 0.97 * entries <= int(filled.sum()) <= entries


def test_a_rotation_that_takes_all_that_is_left_is_made():
    assert int((sparse_orthogonal(2, 2, 4, generator()) != 0).sum()) == 4


def test_draws_differ_between_seeds_only():
    first, again, other = (sparse_orthogonal(5, 7, 20, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_eoi_keeps_the_counts_of_the_masks_and_makes_every_layer_an_isometry():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(20, 9)
    )
    names = ["0.weight", "0.bias", "2.weight", "4.weight"]
    masks = Masks({name: torch.rand_like(network.get_parameter(name)) < 0.5 for name in names})
    masks.apply_(dict(network.named_parameters()))
    bias = network.get_parameter("0.bias").detach().clone()
    drawn, changes = EOI(gain=1.5)(network, masks)
    assert {n: int(m.sum()) for n, m in drawn.items()} == {n: int(m.sum()) for n, m in masks.items()}
    assert torch.equal(drawn["0.bias"], masks["0.bias"])
    assert torch.equal(network.get_parameter("0.bias"), bias)
    assert drawn.revived(dict(network.named_parameters())) == {}
    for name, change in changes.items():
        assert change.after.operator <= 1e-5, name
        assert change.gain == 1.5
    assert (drawn["0.weight"] != masks["0.weight"]).any()


def test_how_far_eoi_moved_the_weights_is_measured_from_where_they_were():
    network = nn.Sequential(nn.Linear(8, 6))
    mask = torch.rand(6, 8) < 0.5
    before = network[0].weight.detach() * mask
    moved = EOI(seed=1)(network, Masks({"0.weight": mask})).changes["0.weight"].moved
    assert moved == pytest.approx(float((network[0].weight.detach() - before).norm() / before.norm()))


def test_the_convolution_of_eoi_keeps_the_norm_of_every_image():
    network = nn.Sequential(nn.Conv2d(6, 10, 3, padding=1, bias=False))
    EOI()(network, Masks({"0.weight": torch.rand(10, 6, 3, 3) < 0.1}))
    images = torch.randn(2, 6, 5, 5)
    assert float(network(images).detach().norm()) == pytest.approx(float(images.norm()), rel=1e-5)


def test_eoi_of_too_few_weights_is_at_the_floor():
    network = nn.Sequential(nn.Linear(6, 6))
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, :4] = True
    drawn, changes = EOI()(network, Masks({"0.weight": mask}))
    change = changes["0.weight"]
    assert int(drawn["0.weight"].sum()) == change.rank == 4
    assert change.after.matrix == pytest.approx(math.sqrt(2)) == pytest.approx(change.floor)


def test_a_linear_network_of_eoi_has_singular_values_of_one():
    network = MLP(depth=5, width=30, activation="linear", in_features=40, out_features=10)
    masks = Masks({n: torch.rand_like(p) < 0.2 for n, p in network.named_parameters() if p.ndim > 1})
    EOI()(network, masks)
    values = singular_values(network, torch.randn(2, 40))
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)


def test_eoi_of_a_residual_network_is_deterministic_and_leaves_the_random_stream_alone():
    weights = []
    for seed in (1, 2):
        network = ResNet(1, width_multiplier=0.25)
        masks = Masks({n: torch.ones_like(p, dtype=torch.bool) for n, p in network.named_parameters() if p.ndim > 1})
        torch.manual_seed(seed)
        expected = torch.get_rng_state()
        EOI(seed=0)(network, masks)
        assert torch.equal(torch.get_rng_state(), expected)
        weights.append(network.conv.weight.detach().clone())
    assert torch.equal(*weights)


# The edge of chaos


def test_one_factor_a_layer_by_hand():
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 0.0], [9.0, 1.0]]))
    mask = torch.tensor([[True, True], [False, True]])
    changes = EdgeOfChaos(gain=3.0)(network, Masks({"0.weight": mask})).changes
    # fan_in 2 times the mean square (1 + 1)/4 is 1
    torch.testing.assert_close(network[0].weight.detach(), torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
    assert changes["0.weight"].moved == pytest.approx(2.0)


def test_a_pruned_relu_network_keeps_the_size_of_its_signals():
    def signal(network: nn.Module) -> float:
        return float(network(torch.randn(100, 200, generator=generator())).detach().square().mean())

    torch.manual_seed(0)
    network = MLP(depth=12, width=200, activation="relu", in_features=200, out_features=200)
    LeCunNormal()(network)
    masks = Masks({n: torch.rand_like(p) < 0.2 for n, p in network.named_parameters() if p.ndim > 1})
    masks.apply_(dict(network.named_parameters()))
    assert signal(network) < 1e-8
    EdgeOfChaos()(network, masks)
    assert 0.2 < signal(network) < 5


def test_a_layer_without_weights_stays_zero():
    network = nn.Sequential(nn.Linear(2, 3))
    EdgeOfChaos()(network, Masks({"0.weight": torch.zeros(3, 2, dtype=torch.bool)}))
    assert not network[0].weight.any()
