import math

import pytest
import torch
from torch import nn

from spl.errors import InputError
from spl.initializers import Gaussian, GlorotNormal, HeNormal, LeCunNormal, Orthogonal
from spl.networks import MLP

NORMAL = [LeCunNormal(), GlorotNormal(), HeNormal(), Gaussian(0.3)]


@pytest.mark.parametrize(
    ("initializer", "linear", "convolution"),
    [
        (LeCunNormal(), 1 / 200, 1 / (40 * 9)),
        (GlorotNormal(), 2 / (200 + 500), 2 / (40 * 9 + 80 * 9)),
        (HeNormal(), 2 / 200, 2 / (40 * 9)),
        (Gaussian(0.3), 0.3, 0.3),
        (Gaussian(1e-4), 1e-4, 1e-4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_are_normal_with_the_variance_of_their_layer(initializer, linear, convolution):
    network = nn.Sequential(nn.Linear(200, 500), nn.Conv2d(40, 80, 3))
    initializer(network)
    for layer, variance in zip(network, (linear, convolution), strict=True):
        z = layer.weight.detach().flatten() / math.sqrt(variance)
        assert len(z) > 25_000
        assert float(z.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(z.var()) == pytest.approx(1.0, abs=0.04)
        # shares of a normal distribution within one and two standard deviations, so neither uniform nor truncated
        assert float((z.abs() < 1).float().mean()) == pytest.approx(0.683, abs=0.01)
        assert float((z.abs() > 2).float().mean()) == pytest.approx(0.0455, abs=0.005)
        assert not layer.bias.any()


def test_fan_in_of_a_grouped_convolution_counts_one_group():
    layer = nn.Conv2d(80, 80, 5, groups=8)
    LeCunNormal()(layer)
    assert float(layer.weight.detach().var()) == pytest.approx(1 / (10 * 25), rel=0.05)


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5)])
def test_orthogonal_weights_have_the_gain_as_every_singular_value(shape, gain):
    layer = nn.Linear(shape[1], shape[0])
    Orthogonal(gain)(layer)
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight), torch.full((min(shape),), gain))
    assert not layer.bias.any()


def test_orthogonal_weights_are_drawn_without_preference_for_a_sign():
    layer = nn.Linear(30, 30)
    diagonals = []
    for _ in range(20):
        Orthogonal()(layer)
        diagonals.append(layer.weight.diagonal().clone())
    share = float((torch.stack(diagonals) > 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("initializer", [*NORMAL, Orthogonal()], ids=lambda i: type(i).__name__)
def test_a_seed_decides_the_weights(initializer):
    network = MLP(depth=3, width=6, in_features=5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        initializer(network)
        drawn.append([network.fc1.weight.clone(), network.fc2.weight.clone()])
    first, again, other = drawn
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize("initializer", NORMAL, ids=lambda i: type(i).__name__)
def test_other_layers_keep_their_weights(initializer):
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Embedding(3, 2))
    nn.init.constant_(network[1].bias, 7.0)
    table = network[2].weight.clone()
    parameters = list(network.parameters())
    initializer(network)
    assert network[1].bias.tolist() == [7.0] * 4
    assert torch.equal(network[2].weight, table)
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert all(p.requires_grad for p in parameters)


def test_orthogonal_refuses_a_convolution_and_names_it():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(InputError, match=r"but 1\.0 is a convolution, .* Use LeCunNormal, GlorotNormal or HeNormal"):
        Orthogonal()(network)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_a_gain_that_is_not_positive_is_an_error(gain):
    with pytest.raises(InputError, match=f"gain must be positive, got {gain}"):
        Orthogonal(gain)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_a_variance_that_is_not_positive_is_an_error(variance):
    with pytest.raises(InputError, match=f"variance must be positive, got {variance}"):
        Gaussian(variance)
