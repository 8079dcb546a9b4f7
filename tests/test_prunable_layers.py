"""Which parameters may be pruned, by kind of layer, and which are refused by name."""

import pytest
import torch
from foreign import Plain, Trained, batches, images
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from spl import InputError, Masks, prune
from spl.criteria import Magnitude, SynFlow
from spl.isometry import ApproximateIsometry
from spl.pruning import prunable_parameters

LAYERS = {
    "Linear": nn.Linear(2, 3),
    "Conv1d": nn.Conv1d(2, 4, 3, groups=2),
    "Conv2d": nn.Conv2d(2, 4, 3, dilation=2),
    "Conv3d": nn.Conv3d(2, 4, 3),
    "ConvTranspose1d": nn.ConvTranspose1d(2, 4, 3),
    "ConvTranspose2d": nn.ConvTranspose2d(2, 4, 3),
    "ConvTranspose3d": nn.ConvTranspose3d(2, 4, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_linear_and_convolutional_layers_have_a_weight_and_a_bias(name):
    network = nn.ModuleDict({"layer": LAYERS[name], "norm": nn.BatchNorm1d(3), "lookup": nn.Embedding(5, 2)})
    assert list(prunable_parameters(network)) == ["layer.weight"]
    assert list(prunable_parameters(network, include_bias=True)) == ["layer.weight", "layer.bias"]
    assert list(prunable_parameters(network, include_embedding=True)) == ["layer.weight", "lookup.weight"]


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ({}, {"in_proj_weight": (12, 4), "out_proj.weight": (4, 4)}),
        (
            {"kdim": 3, "vdim": 2},
            {"q_proj_weight": (4, 4), "k_proj_weight": (4, 3), "v_proj_weight": (4, 2), "out_proj.weight": (4, 4)},
        ),
    ],
    ids=["packed", "apart"],
)
def test_attention_has_its_projections(dimensions, expected):
    network = nn.MultiheadAttention(4, 2, **dimensions)
    assert {name: tuple(p.shape) for name, p in prunable_parameters(network).items()} == expected
    biased = {*expected, "in_proj_bias", "out_proj.bias"}
    assert set(prunable_parameters(network, include_bias=True)) == biased


def test_packed_projections_are_corrected_each_on_its_own():
    network = nn.MultiheadAttention(8, 2, bias=False)
    masks = prune(network, Magnitude(), 0.3)
    masks.apply_(dict(network.named_parameters()))
    change = ApproximateIsometry(gain=1.0, tolerance=0.0)(network, masks).changes["in_proj_weight"]
    assert (change.rank, change.floor) == (24, 0.0)
    for projection in network.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(projection @ projection.T, torch.eye(8), atol=1e-3, rtol=0.0)


def test_projections_that_are_apart_are_one_matrix_each():
    network = nn.MultiheadAttention(6, 2, bias=False, kdim=4)
    masks = prune(network, Magnitude(), 0.0)
    changes = ApproximateIsometry(gain=1.0, tolerance=0.0)(network, masks).changes
    assert {name: change.rank for name, change in changes.items()} == {
        "q_proj_weight": 6, "k_proj_weight": 4, "v_proj_weight": 6, "out_proj.weight": 6
    }  # fmt: skip
    torch.testing.assert_close(network.k_proj_weight.T @ network.k_proj_weight, torch.eye(4), atol=1e-3, rtol=0.0)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_synaptic_flow_reaches_every_projection_of_attention():
    masks = prune(Attending(), SynFlow(), 0.5, [torch.zeros(1, 3, 4)])
    assert set(masks) == {"attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}
    assert all(mask.any() for mask in masks.values())


class Tied(nn.Module):
    """A module as in language models: embedding and output layer share their weight."""

    def __init__(self):
        super().__init__()
        self.lookup = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4)
        self.output = nn.Linear(4, 6, bias=False)
        self.output.weight = self.lookup.weight

    def forward(self, tokens):
        return self.output(self.hidden(self.lookup(tokens)).mean(1))


def test_tied_weights_are_masked_once():
    data = batches([(torch.tensor([i, 5 - i]), i) for i in range(6)], 3)
    trained = Trained(lambda: Plain(Tied()), data, epochs=2)
    assert {name: tuple(mask.shape) for name, mask in trained.masks.items()} == {
        "network.lookup.weight": (6, 4),
        "network.hidden.weight": (4, 4),
    }
    assert trained.masks.kept == 4
    assert trained.module.network.output.weight is trained.module.network.lookup.weight


@pytest.mark.parametrize(
    "parametrized",
    [parametrizations.weight_norm, parametrizations.spectral_norm, spectral_norm, weight_norm],
    ids=["weight_norm", "spectral_norm", "old spectral_norm", "old weight_norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_parametrized_weights_are_refused_by_name_unless_left_out(parametrized):
    network = nn.Sequential(nn.Linear(4, 4), parametrized(nn.Linear(4, 4)))
    with pytest.raises(InputError, match=r"^1\.weight: computed from other parameters \(weight norm, spectral norm"):
        prunable_parameters(network)
    assert list(prunable_parameters(network, exclude=["1.*"])) == ["0.weight"]


def test_lazy_layers_are_refused_by_name_until_they_have_a_shape():
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(
        InputError, match=r"^1\.weight: the weight of a lazy layer .* Run the module once on a batch before fit"
    ):
        prunable_parameters(network)
    network(torch.zeros(1, 5))
    assert list(prunable_parameters(network)) == ["1.weight"]


def test_a_lazy_lightning_module_is_refused_when_fit_starts():
    with pytest.raises(InputError, match=r"^network\.1\.weight: the weight of a lazy layer"):
        Trained(lambda: Plain(nn.Sequential(nn.Flatten(), nn.LazyLinear(4))), batches(images(4, side=2), 4))


def test_frozen_weights_are_left_alone():
    network = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 2))
    assert list(prunable_parameters(network)) == ["1.weight"]


def test_an_embedding_is_pruned_where_it_is_asked_for():
    network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    masks = prune(network, Magnitude(), 0.5, include_embedding=True)
    assert isinstance(masks, Masks)
    assert (set(masks), masks.kept) == ({"0.weight", "1.weight"}, 24)
