"""Networks that keep an activation as an attribute, which `copy.deepcopy` refuses."""

import pytest
import torch
from torch import nn

from spl.criteria import NTKSAP, ConnectionSensitivity, Magnitude, RedrawnWeights
from spl.export import compact, summarize, to_csr
from spl.functional.held_objects import detached_copy
from spl.initializers import HeNormal
from spl.pruning import prune


class Keeping(nn.Module):
    """A network that keeps its features, alone and in a dictionary, for a visualization."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 4)
        self.maps = {}

    def forward(self, x):
        self.features = torch.relu(self.a(x))
        self.maps["last"] = [self.features]
        return self.b(self.features)


def kept():
    network = Keeping()
    network(torch.randn(2, 12))
    return network


def test_a_copy_has_constants_and_shares_nothing():
    network = kept()
    twin = detached_copy(network)
    assert torch.equal(twin.features, network.features)
    assert twin.maps["last"][0] is twin.features
    assert not twin.features.requires_grad
    assert network.features.grad_fn is not None
    assert twin.a.weight is not network.a.weight
    assert twin.a.weight.requires_grad


@pytest.mark.parametrize(
    "criterion", [NTKSAP(draws=1), RedrawnWeights(ConnectionSensitivity(), HeNormal())], ids=lambda c: type(c).__name__
)
def test_they_are_pruned(criterion):
    batch = torch.randn(4, 12), torch.arange(4)
    assert prune(kept(), criterion, 0.5, [batch]).kept == 256


@pytest.mark.parametrize("export", [compact, to_csr, summarize], ids=lambda export: export.__name__)
def test_they_are_exported(export):
    network = kept()
    masks = prune(network, Magnitude(), 0.9)
    export(network, masks, torch.randn(4, 12))
    assert network.features.grad_fn is not None
