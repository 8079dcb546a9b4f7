"""Linear layers on sparse tensor cores."""

import pytest
import torch
from torch import nn

from spl.criteria import Magnitude
from spl.errors import InputError
from spl.export import to_two_four
from spl.export.two_four import is_two_four
from spl.masks import Masks
from spl.networks import MLP
from spl.patterns import NM
from spl.pruning import prune

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with sparse tensor cores")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 0, 0, 0, 1, 0, 1]], True),
        ([[1, 0, 0, 0, 0, 0, 0, 0]], True),
        ([[1, 1, 1, 0, 0, 0, 0, 1]], False),
        ([[0, 0, 1, 1, 1, 1, 0, 0]], True),
        ([[1, 0, 0, 0, 1, 0]], False),
    ],
)
def test_masks_that_keep_two_of_four(mask, expected):
    assert is_two_four(torch.tensor(mask, dtype=torch.bool)) == expected


def test_on_a_cpu_it_is_refused():
    network = nn.Sequential(nn.Linear(64, 64))
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    with pytest.raises(InputError, match=r"No layer can run as 2:4 \(0: it is on cpu, .* export it as csr or compact"):
        to_two_four(network, masks)


def test_other_masks_are_refused():
    network = MLP(depth=2)
    masks = Masks({"fc1.weight": torch.ones(100, 784, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"fc1: its mask is not 2:4\)\. Prune with --pruning\.pattern NM"):
        to_two_four(network, masks)
    with pytest.raises(InputError, match="no Linear layer has a mask"):
        to_two_four(network, Masks({}))


@on_cuda
def test_full_precision_is_refused():
    network = nn.Sequential(nn.Linear(64, 64)).cuda()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    with pytest.raises(InputError, match="it is in float32"):
        to_two_four(network, masks)


@on_cuda
def test_on_tensor_cores_the_outputs_are_equal():
    network = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10))
    network = network.cuda().half()
    masks = prune(network, Magnitude(), sparsity=0.5, pattern=NM())
    result = to_two_four(network, masks)
    masks.apply_(dict(network.named_parameters()))
    inputs = torch.randn(64, 256, device="cuda").half()
    assert result.converted[:2] == ["0", "2"]
    with torch.no_grad():
        assert torch.allclose(result.network(inputs), network(inputs), atol=1e-2)
