"""Layers that multiply by something that they compute from their weight are refused by name."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from foreign import Plain, Trained, batches, images
from torch import nn
from torch.utils.checkpoint import checkpoint

from spl import InputError, prune
from spl.criteria import ConnectionSensitivity, GraSP, Magnitude, RedrawnWeights, SynFlow
from spl.initializers import HeNormal


class Standardized(nn.Conv2d):
    """As in BiT."""

    def forward(self, x):
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-6), self.bias)


class StandardizedByBatchNorm(nn.Conv2d):
    """As in timm."""

    def forward(self, x):
        rows = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, rows.reshape_as(self.weight), self.bias, self.stride, self.padding)


class Equalized(nn.Conv2d):
    """As in progressive GANs."""

    def forward(self, x):
        return F.conv2d(x, self.weight * (2 / 27) ** 0.5, self.bias, self.stride, self.padding)


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, torch.tanh(weight), bias)


class Called(nn.Module):
    """A module that reads the weight of a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        weight = self.layer.weight
        return F.conv2d(x, weight - weight.mean(), self.layer.bias)


class Padded(nn.Conv2d):
    """A layer with a forward of its own that multiplies by the weight itself, as convolutions with `same` padding."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def network(layer):
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


COMPUTED = {
    "standardized": (lambda: Standardized(3, 4, 3), "0.weight"),
    "by BatchNorm": (lambda: StandardizedByBatchNorm(3, 4, 3), "0.weight"),
    "equalized": (lambda: Equalized(3, 4, 3), "0.weight"),
    "_conv_forward": (lambda: OwnConvolution(3, 4, 3), "0.weight"),
    "not called": (Called, "0.layer.weight"),
}
CRITERIA = [ConnectionSensitivity(), GraSP(), RedrawnWeights(GraSP(), HeNormal())]
BATCH = (torch.rand(8, 3, 9, 9), torch.arange(8) % 4)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)
@pytest.mark.parametrize(("make", "name"), COMPUTED.values(), ids=COMPUTED)
def test_a_weight_that_is_no_factor_is_refused_by_name(make, name, criterion):
    with pytest.raises(InputError, match=rf"^{name}: the network multiplies by a weight that it computes"):
        prune(network(make()), criterion, 0.5, [BATCH])
    assert set(prune(network(make()), criterion, 0.5, [BATCH], exclude=["0.*"])) == {"4.weight"}


def test_it_is_refused_when_fit_starts():
    with pytest.raises(InputError, match=r"^network\.0\.weight: the network multiplies by a weight that it computes"):
        Trained(lambda: Plain(network(Standardized(3, 4, 3))), batches(images(8, side=9), 4))


@pytest.mark.parametrize("criterion", [Magnitude(), SynFlow()], ids=["Magnitude", "SynFlow"])
def test_it_is_refused_by_criteria_without_a_loss_too(criterion):
    with pytest.raises(InputError, match=r"^0\.weight: the network multiplies by a weight that it computes"):
        prune(network(Standardized(3, 4, 3)), criterion, 0.5, [BATCH])
    assert len(prune(network(Padded(3, 4, 3)), criterion, 0.5, [BATCH])) == 2


def test_without_batches_layers_with_a_forward_of_their_own_are_named():
    for layer in (Standardized(3, 4, 3), Padded(3, 4, 3), OwnConvolution(3, 4, 3)):
        with pytest.warns(UserWarning, match=r"^0\.weight: the layer has a forward of its own"):
            prune(network(layer), Magnitude(), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(network(Padded(3, 4, 3)), Magnitude(), 0.5, exclude=["0.*"])
        prune(network(nn.Conv2d(3, 4, 3)), Magnitude(), 0.5)


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=False)


class Many(nn.Module):
    """Layers whose weights reach their products by ways of their own."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.apart = nn.MultiheadAttention(4, 2, batch_first=True, kdim=4, vdim=4, bias=False)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.up = nn.ConvTranspose1d(4, 4, 1)
        self.lookup = nn.Embedding(4, 4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.lookup.weight

    def forward(self, x):
        x = x.flatten(2)[..., :4]
        x = x + self.lookup(torch.zeros(1, dtype=torch.long)) * 2
        x = self.attention(x, x, x)[0]
        x = self.lstm(self.apart(x, x, x)[0])[0]
        return self.head(self.cell(self.up(x.mT).mT.mean(1)))


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)
@pytest.mark.parametrize("make", [lambda: network(Padded(3, 4, 3)), lambda: network(Recomputing()), Many])
def test_weights_that_are_factors_are_pruned(make, criterion):
    assert prune(make(), criterion, 0.5, [BATCH]).kept > 0


def test_a_penalty_on_the_weights_does_not_matter():
    class Penalized(Plain):
        def training_step(self, batch, batch_idx):
            penalty = sum(weight.square().sum() for weight in self.parameters())
            return super().training_step(batch, batch_idx) + 1e-4 * penalty

    Trained(lambda: Penalized(network(nn.Conv2d(3, 4, 3))), batches(images(8, side=9), 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision_does_not_matter(dtype):
    net, (x, y) = network(nn.Conv2d(3, 4, 3)).to(dtype), BATCH
    assert prune(net, ConnectionSensitivity(), 0.5, [(x.to(dtype), y)]).kept > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prune(network(nn.Conv2d(3, 4, 3)), ConnectionSensitivity(), 0.5, [BATCH]).kept > 0
