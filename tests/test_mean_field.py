import math

import pytest
import torch
from torch import nn

from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry
from spl.isometry.activations import activations_in_order
from spl.isometry.mean_field import bounded_gain, critical_gain
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.networks import MLP, VGG16, ResNet, WideResNet


@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])
@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        (nn.Identity(), 1.0),
        (nn.ReLU(), math.sqrt(2)),
        (nn.LeakyReLU(0.5), math.sqrt(2 / 1.25)),
        (nn.ReLU(True), 2**0.5),
    ],
)
def test_the_gain_of_piecewise_linear_activations_does_not_depend_on_the_variance(activation, gain, variance):
    assert critical_gain(activation, variance) == pytest.approx(gain)


def test_the_gain_of_tanh_is_that_of_the_literature():
    # E[sech⁴(√q z)] = 1 - 2q + 7q² to second order
    assert critical_gain(nn.Tanh(), 1e-3) == pytest.approx(1 + 1e-3, abs=1e-5)
    assert critical_gain(nn.Tanh()) ** 2 == pytest.approx(1.05, abs=0.005)
    assert critical_gain(nn.Tanh(), 1.0) > critical_gain(nn.Tanh(), 0.1) > 1


def layer_gains(network: nn.Module) -> dict[str, float]:
    """Return the gain of every layer whose activation the order of the modules shows."""
    behind = activations_in_order(network)
    return {name: 1.0 if activation is None else bounded_gain(activation) for name, activation in behind.items()}


def test_the_gain_works_without_gradients():
    with torch.no_grad():
        assert critical_gain(nn.ReLU()) == pytest.approx(math.sqrt(2))


def test_each_layer_has_the_gain_of_the_activation_that_follows_it():
    network = nn.Sequential(
        nn.Linear(2, 2), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.LeakyReLU(1.0), nn.Linear(2, 2)
    )
    network.add_module("last", nn.Linear(2, 2))
    gains = layer_gains(network)
    assert list(gains) == ["0.weight", "2.weight", "5.weight", "last.weight"]
    assert list(gains.values()) == pytest.approx([math.sqrt(2), 1.0, 1.0, 1.0])


@pytest.mark.parametrize("slope", [0.25, 0.5])
def test_the_gain_of_a_trained_slope_is_that_of_the_slope(slope):
    assert bounded_gain(nn.PReLU(init=slope)) == bounded_gain(nn.LeakyReLU(slope))


def test_of_several_activations_after_a_layer_the_first_decides():
    gains = layer_gains(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Tanh()))
    assert list(gains.values()) == pytest.approx([critical_gain(nn.Tanh()), math.sqrt(2)])


def test_gains_of_the_networks():
    tanh = critical_gain(nn.Tanh())
    assert list(layer_gains(MLP(depth=3)).values()) == pytest.approx([tanh, tanh, 1.0])
    assert set(layer_gains(MLP(depth=3, activation="linear")).values()) == {1.0}
    for network in (VGG16(0.1), ResNet(1)):
        *hidden, last = layer_gains(network).values()
        assert hidden == pytest.approx([math.sqrt(2)] * len(hidden))
        assert last == 1.0
    gains = layer_gains(WideResNet(1))
    assert [name for name, gain in gains.items() if gain == 1.0] == ["fc.weight"]
    assert not [name for name in gains if "shortcut" in name]  # no activation is listed behind them


def test_a_correction_brings_each_layer_to_its_own_gain_or_to_one_number():
    for gain, expected in (("mean_field", math.sqrt(2)), (1.0, 1.0), (0.5, 0.5)):
        network = MLP(depth=2, width=6, activation="relu", in_features=8, out_features=4)
        masks = Masks({name: torch.ones_like(p, dtype=torch.bool) for name, p in network.named_parameters()})
        changes = ApproximateIsometry(gain, tolerance=0.0)(network, masks).changes
        assert changes["fc1.weight"].gain == pytest.approx(expected)
        values = torch.linalg.svdvals(network.fc1.weight.detach())
        torch.testing.assert_close(values, torch.full_like(values, expected), atol=1e-3, rtol=0)


def test_relu_networks_propagate_signals_at_their_gain_and_lose_them_at_the_papers():
    means = {}
    for gain in ("mean_field", 1.0):
        torch.manual_seed(0)
        network = MLP(depth=10, width=60, activation="relu", in_features=60)
        Orthogonal()(network)
        masks = Masks(
            {f"fc{i}.weight": torch.rand_like(network.get_submodule(f"fc{i}").weight) < 0.3 for i in range(1, 11)}
        )
        ApproximateIsometry(gain, tolerance=0.0)(network, masks)
        means[gain] = float(singular_values(network, torch.randn(20, 60)).mean())
    # a ReLU halves the mean square in each of nine layers
    assert means["mean_field"] / means[1.0] == pytest.approx(2**4.5, rel=1e-3)
    assert 0.3 < means["mean_field"] < 3


@pytest.mark.parametrize(("gain", "message"), [("relu", "must be mean_field or a positive number, got 'relu'")])
def test_an_unknown_gain_is_an_error(gain, message):
    with pytest.raises(ValueError, match=message):
        ApproximateIsometry(gain)
