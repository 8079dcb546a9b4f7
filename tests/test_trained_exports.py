"""Exports of networks with statistics as after training, whose dead channels are not 0.

`benchmarks/zoo.py` does the same for sixty networks of others.
"""

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from trained import GatedBlocks, LastStep, OverwrittenInput, ResUNet, lively_

from spl.criteria import Random
from spl.export import compact, save_program
from spl.export.comparison import relative_difference
from spl.networks import VGG16, ResNet, WideResNet
from spl.pruning import prune
from spl.pruning.patterns import Channels
from spl.pruning.scopes import Uniform


class Scaled(nn.Module):
    """A network whose outputs are multiplied by a number."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


def trained(make, *shape):
    """Return a network with half of its channels pruned, and its masks."""
    torch.manual_seed(0)
    network = make().eval()
    masks = prune(network, Random(), sparsity=0.5, pattern=Channels(), scope=Uniform())
    masks.apply_(dict(network.named_parameters()))
    lively_(network, torch.randn(6, *shape))
    masks.apply_(dict(network.named_parameters()))
    return network, masks


def assert_same(network, exported, *shape):
    inputs, others = torch.randn(3, *shape), torch.randn(3, *shape)
    with torch.no_grad():
        expected = network(inputs)
        assert relative_difference(exported(inputs), expected) < 1e-4
        assert relative_difference(network(others), expected) > 1e-3, "outputs must depend on inputs"


SMALL = {
    "U-Net with outputs of 1e-4": (lambda: Scaled(ResUNet(), 1e-4), (3, 32, 32)),
    "LSTM": (LastStep, (9, 8)),
    "overwritten inputs": (OverwrittenInput, (3, 16, 16)),
    "gates": (GatedBlocks, (3, 16, 16)),
}


@pytest.mark.parametrize(("make", "shape"), SMALL.values(), ids=SMALL)
def test_programs_of_compact_networks_compute_what_the_network_does(make, shape, tmp_path):
    network, masks = trained(make, *shape)
    smaller = compact(network, masks, torch.randn(2, *shape))
    assert smaller.report.after.parameters < smaller.report.before.parameters
    assert_same(network, smaller.network, *shape)
    save_program(tmp_path / "n.pt2", smaller.network, torch.randn(2, *shape))
    assert_same(network, torch.export.load(tmp_path / "n.pt2").module(), *shape)


LARGER = {
    "VGG16": (lambda: VGG16(width_multiplier=0.25), 32),
    "ResNet-8": (lambda: ResNet(1), 16),
    "WideResNet": (lambda: WideResNet(1), 16),
    **{
        name: (lambda name=name: get_model(name, weights=None, num_classes=5), 64)
        for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf")
    },
}


@pytest.mark.parametrize(("make", "size"), LARGER.values(), ids=LARGER)
def test_compact_networks_compute_what_the_network_does(make, size):
    network, masks = trained(make, 3, size, size)
    smaller = compact(network, masks, torch.randn(2, 3, size, size))
    assert smaller.report.after.macs < 0.9 * smaller.report.before.macs
    assert_same(network, smaller.network, 3, size, size)
