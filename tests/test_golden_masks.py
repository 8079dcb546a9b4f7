"""Masks equal to those of the code that was published with the papers, weight for weight.

`KEPT` holds the places, counted row by row, of the 47 of 470 weights that this code leaves at 90 % on the network,
weights and batches below. Those of SNIP, GraSP, Magnitude and SynFlow are by the code of SynFlow (Tanaka et al. 2020,
commit 9dfa57a, in evaluation mode, scope global, bias and BatchNorm not pruned). Those of ProsPr are by its own code
(Alizadeh et al. 2022, commit a921779), with its defaults and for the first order, with the statistics of each batch.
Those of PX are by its own code (Iurada et al. 2024, commit ed6c40e) on the network without BatchNorm and biases, and
with a last layer that is not called fc.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.criteria import PX, SNIP, GraSP, Magnitude, ProsPr, SynFlow
from spl.criteria.schedules import Exponential
from spl.pruning import prune

KEPT = {
    "SNIP": {
        "conv1.weight": [9, 13, 18, 23, 27, 28, 29, 33, 37, 43],
        "conv2.weight": [
            4, 8, 13, 14, 19, 22, 23, 24, 28, 32, 33, 37, 43, 46, 57, 65, 66, 67, 72, 76, 81, 109, 115, 129,
            153, 158, 200,
        ],
        "fc.weight": [0, 1, 3, 9, 14, 15, 23, 114, 129, 134],
    },
    "GraSP": {
        "conv1.weight": [4, 13, 14, 18, 22, 23, 24, 27, 28, 29, 33, 37, 41, 43],
        "conv2.weight": [18, 23, 24, 28, 47, 115, 124, 153, 158, 161, 167, 205, 206],
        "fc.weight": [28, 42, 43, 47, 56, 57, 71, 81, 100, 104, 105, 106, 124, 144, 148, 163, 167, 176, 187, 191],
    },
    "Magnitude": {
        "conv1.weight": [4, 18, 23, 28, 42],
        "conv2.weight": [
            4, 9, 23, 28, 47, 52, 71, 76, 90, 95, 100, 114, 119, 124, 138, 143, 162, 167, 186, 191, 210,
            215,
        ],
        "fc.weight": [4, 9, 28, 33, 52, 57, 76, 81, 95, 100, 105, 119, 124, 129, 143, 148, 167, 172, 191, 196],
    },
    "SynFlow": {
        "conv1.weight": [3, 4, 8, 18, 23, 27, 28, 32, 33, 37, 38, 41, 42, 43],
        "conv2.weight": [90, 94, 95, 109, 114, 115, 118, 119, 120, 123, 124, 128, 129, 130, 133, 134],
        "fc.weight": [8, 9, 28, 29, 48, 71, 90, 91, 109, 110, 128, 129, 148, 149, 168, 171, 191],
    },
    "ProsPr": {
        "conv1.weight": [3, 4, 7, 9, 13, 23, 24, 34, 38, 42, 43],
        "conv2.weight": [
            0, 4, 14, 18, 19, 23, 27, 28, 46, 47, 57, 61, 65, 67, 76, 81, 86, 124, 129, 143, 148, 152, 163, 167,
            181, 195, 196, 204, 223,
        ],
        "fc.weight": [9, 14, 43, 76, 114, 129, 134],
    },
    "ProsPr of the first order": {
        "conv1.weight": [3, 4, 7, 9, 12, 13, 14, 23, 24, 28, 34, 38, 42, 43],
        "conv2.weight": [
            0, 4, 14, 18, 19, 23, 27, 28, 46, 47, 57, 65, 67, 76, 81, 86, 129, 143, 148, 152, 163, 167, 181, 195,
            196, 204, 223,
        ],
        "fc.weight": [9, 14, 76, 114, 129, 134],
    },
    "PX": {
        "conv1.weight": [9, 13, 18, 19, 22, 23, 27, 28, 32, 33, 37, 38, 42, 43],
        "conv2.weight": [15, 20, 25, 30, 34, 39, 44, 58, 63, 67, 68, 73, 77, 82, 87, 111, 121, 130],
        "fc.weight": [21, 22, 26, 27, 31, 40, 41, 45, 46, 50, 160, 161, 165, 166, 170],
    },
}  # fmt: skip


class Network(nn.Module):
    def __init__(self, is_bare: bool = False):
        super().__init__()
        norm = nn.Identity if is_bare else nn.BatchNorm2d
        self.conv1, self.bn1 = nn.Conv2d(1, 5, 3, padding=1, bias=False), norm(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 5, 3, padding=1, bias=False), norm(5)
        self.fc = nn.Linear(20, 10, bias=not is_bare)

    def forward(self, x):
        x = F.avg_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = F.avg_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


def numbers(*shape: int, step: int = 7919, start: int = 1) -> Tensor:
    """Return numbers between -½ and ½ that need no random generator."""
    places = torch.arange(math.prod(shape)) + start
    return (places * step % 10007).double().div(10007).sub(0.5).float().view(shape)


def network(is_bare: bool = False) -> Network:
    made = Network(is_bare)
    with torch.no_grad():
        for place, (name, parameter) in enumerate(made.named_parameters()):
            if not name.startswith("bn"):
                size = 2.0 if parameter.ndim > 1 else 0.2
                parameter.copy_(size * numbers(*parameter.shape, start=1000 * place + 1))
    return made.eval()


INPUTS, LABELS = 4 * numbers(20, 1, 8, 8, step=3571), torch.arange(20) % 10
BATCHES = [(INPUTS[:10], LABELS[:10]), (INPUTS[10:], LABELS[10:])]


def kept(criterion, is_bare=False, **choices) -> dict[str, list[int]]:
    masks = prune(network(is_bare), criterion, sparsity=0.9, batches=BATCHES, **choices)
    return {name: mask.flatten().nonzero()[:, 0].tolist() for name, mask in masks.items()}


@pytest.mark.parametrize("criterion", [SNIP(), GraSP(), Magnitude()], ids=["SNIP", "GraSP", "Magnitude"])
def test_masks_are_those_of_the_published_code(criterion, request):
    assert kept(criterion) == KEPT[request.node.callspec.id]


class RoundedUp(Exponential):
    """The schedule of the published code, which rounds the number of pruned weights down in each round."""

    def keeps(self, size, keep):
        return [size - int((1 - self.density(keep / size, n / self.rounds)) * size) for n in range(1, self.rounds + 1)]


def test_masks_of_synflow_are_those_of_the_published_code_if_each_round_keeps_as_many_weights():
    assert kept(SynFlow(), schedule=RoundedUp(100)) == KEPT["SynFlow"]


def test_the_difference_of_synflow_is_the_rounding_of_the_number_of_weights_in_each_round():
    """Our rounds keep the nearest number, theirs up to one more: 2 of 470 weights change places."""
    own, published = kept(SynFlow()), KEPT["SynFlow"]
    differing = sum(len(set(own[name]) ^ set(published[name])) for name in own)
    assert differing == 2
    assert sum(map(len, own.values())) == sum(map(len, published.values())) == 47


def test_masks_of_prospr_are_those_of_the_published_code():
    assert kept(ProsPr(), batch_norm="batch") == KEPT["ProsPr"]
    assert kept(ProsPr(first_order=True), batch_norm="batch") == KEPT["ProsPr of the first order"]


def test_masks_of_px_are_those_of_the_published_code_without_batch_norm_and_biases():
    assert kept(PX(), is_bare=True, schedule=RoundedUp(100)) == KEPT["PX"]
