"""Compact networks whose layers do more than the torch class that they are derived from."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trained import as_trained_, lively_

from spl.criteria import Random
from spl.export import compact
from spl.export.comparison import relative_difference
from spl.masks.masks import Masks
from spl.pruning import prune
from spl.pruning.patterns import Channels
from spl.pruning.scopes import Uniform


def compacted(network, masks, *shape):
    """Return a compact network after comparing it with the pruned one."""
    result = compact(network, masks, torch.randn(2, *shape))
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(3, *shape)
    with torch.no_grad():
        assert relative_difference(result.network(inputs), network(inputs)) < 1e-4
    return result


def without_rows(network, **rows):
    masks = {f"{name}.weight": torch.ones_like(network.get_parameter(f"{name}.weight"), dtype=bool) for name in rows}
    for name, dead in rows.items():
        masks[f"{name}.weight"][dead] = False
    return Masks(masks)


class NormAct(nn.BatchNorm2d):
    """A BatchNorm that applies an activation of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.PReLU()

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return F.silu(self.act(x))


class Preactivated(nn.Conv2d):
    """A convolution of activations."""

    def forward(self, x):
        return F.conv2d(F.relu(x), self.weight, self.bias, self.stride, (0, 0), self.dilation, groups=self.groups)


class Scaled(nn.Linear):
    """A linear layer with a factor."""

    def forward(self, x):
        return F.linear(x, self.weight, bias=self.bias) * 0.5


class Renamed(nn.Conv2d):
    """A convolution with another name."""


class Squared(nn.Conv2d):
    """A convolution that multiplies by other numbers than its weight."""

    def forward(self, x):
        return F.conv2d(x, self.weight.square(), self.bias)


class Hidden(nn.Conv2d):
    """The same, in the method that `forward` calls."""

    def _conv_forward(self, x, weight, bias):
        return F.conv2d(x, weight.square(), bias)


@pytest.mark.parametrize(
    ("middle", "left"), [(Preactivated(4, 4, 3), 2), (Renamed(4, 4, 1), 2), (Squared(4, 4, 1), 4), (Hidden(4, 4, 1), 4)]
)
def test_a_layer_is_taken_for_what_its_forward_does(middle, left):
    network = as_trained_(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), middle, nn.Conv2d(4, 2, 1)))
    result = compacted(network, without_rows(network, **{"0": [1, 2]}), 2, 8, 8)
    assert len(result.network.get_parameter("0.weight")) == left


def test_linear_layers_with_a_forward_of_their_own_are_followed():
    network = nn.Sequential(Scaled(3, 6), nn.ReLU(), Scaled(6, 5), nn.Linear(5, 2))
    result = compacted(network, without_rows(network, **{"0": [1, 2], "2": [0]}), 3)
    assert [len(result.network.get_parameter(f"{name}.weight")) for name in "023"] == [4, 4, 2]


def test_a_norm_with_an_activation_is_a_norm_and_an_activation():
    network = as_trained_(nn.Sequential(nn.Conv2d(2, 4, 3), NormAct(4), nn.Conv2d(4, 6, 1), NormAct(6)))
    network[1].act.weight.data.fill_(0.1)
    result = compacted(network, without_rows(network, **{"0": [1, 2]}), 2, 8, 8)
    assert list(result.network.state_dict()) == list(network.state_dict())
    # a PReLU reads all channels, so that they stay
    assert len(result.network.get_parameter("1.weight")) == 4
    for norm in (network[1], network[3]):
        norm.act = nn.LeakyReLU()
    result = compacted(network, without_rows(network, **{"0": [1, 2]}), 2, 8, 8)
    assert len(result.network.get_parameter("1.weight")) == 2
    assert result.network.get_submodule("1").num_features == 2


def test_a_norm_without_a_shift_is_followed():
    network = as_trained_(nn.Sequential(nn.Conv2d(2, 4, 3), NormAct(4), nn.Conv2d(4, 2, 1)))
    network[1].register_parameter("bias", None)
    network[1].act = nn.ReLU()
    result = compacted(network, without_rows(network, **{"0": [1, 2]}), 2, 8, 8)
    assert len(result.network.get_parameter("1.weight")) == 2


def test_a_layer_that_is_called_twice_or_shares_its_weight_stays():
    twice = nn.Sequential(nn.Conv2d(2, 4, 3), NormAct(4), nn.Conv2d(4, 4, 1), nn.Identity(), nn.Conv2d(4, 2, 1))
    twice[3] = twice[1]
    shared = nn.Sequential(nn.Conv2d(2, 4, 3), Preactivated(4, 4, 3), Preactivated(4, 4, 3), nn.Conv2d(4, 2, 1))
    shared[2].weight = shared[1].weight
    for network in (as_trained_(twice), shared):
        result = compacted(network, without_rows(network, **{"0": [1, 2]}), 2, 8, 8)
        assert len(result.network.get_parameter("0.weight")) == 4


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("darknet17", 0.5), ("repvgg_a0", 0.65), ("ese_vovnet19b_dw", 0.9)],
)
def test_networks_of_timm_become_smaller(name, smaller):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4, pretrained=False).eval()
    masks = prune(network, Random(), sparsity=0.5, pattern=Channels(), scope=Uniform())
    masks.apply_(dict(network.named_parameters()))
    lively_(network, torch.randn(4, 3, 64, 64))
    result = compacted(network, masks, 3, 64, 64)
    assert result.report.after.parameters < smaller * result.report.before.parameters
