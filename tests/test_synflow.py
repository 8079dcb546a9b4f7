from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from subjects import chain, subject
from torch import nn

from spl.criteria import Magnitude, SynFlow
from spl.criteria.schedules import Exponential, OneShot
from spl.criteria.synaptic_flow import SynapticFlow
from spl.functional.linearized import path_gradients
from spl.masks.masks import Masks
from spl.masks.top_k import top_k
from spl.networks import MLP, VGG16, ResNet, WideResNet
from spl.pruning import prunable_parameters, prune


def synflow(network: nn.Module, shape: tuple[int, ...], masks: Masks | None = None) -> dict[str, torch.Tensor]:
    weights = subject(network, [(torch.zeros(3, *shape), torch.zeros(3))], masks, include_bias=False)
    return SynFlow()(weights)


class Convolutions(nn.Sequential):
    """A network with every kind of layer that flow passes through, for images of 7×7."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
            nn.Tanh(),
            nn.Conv2d(4, 6, (1, 3), padding="same"),
            nn.GroupNorm(2, 6),
            nn.Dropout(0.5),
            nn.Conv2d(6, 5, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1)),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(10, 4),
            nn.LayerNorm(4),
            nn.LeakyReLU(),
            nn.BatchNorm1d(4, affine=False, track_running_stats=False),
            nn.Linear(4, 3),
        )
        for buffer in (self[1].running_var, self[1].running_mean):
            buffer.uniform_(0.5, 2)


# By hand


def test_scores_of_a_chain_by_hand():
    # with absolute weights the units are 1·1 + 2·1 = 3 and 3·1 = 3; R = 4·3 + 5·3, so scores are |w| |v| of each path
    scores = synflow(chain([[1.0, -2.0], [0.0, 3.0]], [[-4.0, 5.0]], activation=nn.Tanh), (2,))
    assert scores["fc1.weight"].tolist() == [[4.0, 8.0], [0.0, 15.0]]
    assert scores["fc2.weight"].tolist() == [[12.0, 15.0]]


def test_pruned_weights_carry_no_flow():
    masks = Masks({"fc1.weight": torch.tensor([[True, False], [True, True]]), "fc2.weight": torch.ones(1, 2) > 0})
    scores = synflow(chain([[1.0, -2.0], [0.0, 3.0]], [[-4.0, 5.0]]), (2,), masks)
    assert scores["fc1.weight"].tolist() == [[4.0, 0.0], [0.0, 15.0]]
    assert scores["fc2.weight"].tolist() == [[4.0, 15.0]]


def test_batch_norm_scales_by_its_recorded_variance_and_nothing_else():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1), nn.Linear(1, 1))
    for layer, weight in zip(network, (2.0, -3.0, 5.0), strict=True):
        layer.weight.data.fill_(weight)
    network[1].running_var.fill_(4.0 - network[1].eps)
    network[1].running_mean.fill_(7.0)
    scores = synflow(network.train(), (1,))
    assert float(scores["0.weight"]) == float(scores["2.weight"]) == pytest.approx(2 * 3 / 2 * 5)


# Conservation: the flow into a hidden unit equals the flow out of it


def flows(scores: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the summed scores into and out of the units between consecutive layers."""
    return [(a.flatten(1).sum(1), b.transpose(0, 1).flatten(1).sum(1)) for a, b in pairwise(scores.values())]


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.floats(0.0, 0.8), st.integers(0, 10**6))
def test_scores_into_and_out_of_hidden_units_are_equal(sizes, sparsity, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(*[layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())])
    masks = Masks({f"{2 * i}.weight": torch.rand(b, a) >= sparsity for i, (a, b) in enumerate(pairwise(sizes))})
    for into, out in flows(synflow(network, (sizes[0],), masks)):
        torch.testing.assert_close(into, out)


def test_scores_into_and_out_of_channels_are_equal_through_batch_norm_and_pooling():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
    )
    network.append(nn.AvgPool2d(4)).append(nn.Flatten()).append(nn.Linear(4, 2))
    network[1].running_var.uniform_(0.5, 2.0)
    scores = synflow(network, (1, 10, 10))
    del scores["1.weight"]
    for into, out in flows(scores):
        torch.testing.assert_close(into, out)
    assert float(scores["0.weight"].sum()) == pytest.approx(float(scores["8.weight"].sum()))


def test_no_layer_collapses_where_one_shot_pruning_loses_some():
    network = MLP(depth=5, width=20, in_features=50)
    size = sum(p.numel() for p in prunable_parameters(network).values())
    batches = [(torch.zeros(1, 50), torch.zeros(1))]
    sparsity = 1 - 10 / size  # ten weights remain for five layers
    for criterion, schedule in ((SynFlow(), OneShot()), (Magnitude(), OneShot())):
        assert not all(m.any() for m in prune(network, criterion, sparsity, batches, schedule=schedule).values())
    assert all(mask.any() for mask in prune(network, SynFlow(), sparsity, batches).values())


# The same as by automatic differentiation, in every round


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Convolutions, (2, 7, 7)),
        (lambda: VGG16(0.125), (3, 32, 32)),
        (lambda: ResNet(1), (3, 32, 32)),
        (lambda: WideResNet(1, width_multiplier=1), (3, 16, 16)),
        (lambda: MLP(3, 10, in_features=6), (2, 3)),
    ],
    ids=["convolutions", "vgg16", "resnet", "wide_resnet", "mlp"],
)
def test_flow_is_the_gradient_of_the_sum_over_paths_while_weights_and_channels_die(
    monkeypatch, network, shape, precision
):
    monkeypatch.setattr("spl.criteria.synaptic_flow._SEARCH_INTERVAL", 1)
    network = network().to(precision).train()
    parameters = dict(network.named_parameters())
    flow = SynapticFlow(network, parameters, torch.zeros(1, *shape, dtype=precision))
    for density in (1.0, 0.5, 0.2, 0.05):
        for p in parameters.values():
            p.data[torch.rand_like(p) > density] = 0.0
            p.data[: int(len(p) * (1 - density) / 2)] = 0.0
        weights = {name: p for name, p in parameters.items() if not name.endswith("bias")}
        gradients = path_gradients(network, weights, torch.zeros(1, *shape))
        for name, scores in flow.scores().items():
            expected = gradients[name] * weights[name].double().abs() if name in weights else torch.zeros(len(scores))
            torch.testing.assert_close(scores, expected, check_dtype=False)


def test_dead_channels_drop_out_of_the_products(monkeypatch):
    monkeypatch.setattr("spl.criteria.synaptic_flow._SEARCH_INTERVAL", 1)
    network = chain([[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]])
    flow = SynapticFlow(network, ["fc1.weight", "fc2.weight", "fc3.weight"], torch.zeros(1, 2))
    network.fc1.weight.data[0] = 0.0
    flow.scores()
    assert [tuple(layer.weight.shape) for layer in flow.layers.values()] == [(1, 2), (2, 1), (1, 2)]
    assert flow.scores()["fc2.weight"].tolist() == [[0.0, 2.0], [0.0, 2.0]]


def test_a_matrix_that_is_used_twice_has_the_flow_of_both_uses():
    shared = nn.Linear(2, 2, bias=False)
    shared.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    scores = synflow(nn.Sequential(shared, nn.Tanh(), shared), (2,))["0.weight"]
    # out = W (W 1) with W 1 = (3, 7); the gradient is Wᵀ1 1ᵀ + 1 (W 1)ᵀ
    assert scores.tolist() == [[1 * (4 + 3), 2 * (4 + 7)], [3 * (6 + 3), 4 * (6 + 7)]]


def test_a_kernel_that_is_used_on_a_large_and_a_small_image_has_the_flow_of_both():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    network = nn.Sequential(shared, nn.AdaptiveAvgPool2d(1), shared)
    gradient = path_gradients(network, {"0.weight": shared.weight}, torch.zeros(1, 8, 6, 6))["0.weight"]
    torch.testing.assert_close(synflow(network, (8, 6, 6))["0.weight"], gradient * shared.weight.double().abs())


def test_a_dilated_kernel_of_more_channels_than_positions_has_the_flow_of_its_paths():
    network = nn.Sequential(nn.Conv2d(2, 80, (2, 3), padding=(1, 0), dilation=(3, 2)), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 2, 4, 5))
    gradient = path_gradients(network, {"0.weight": network[0].weight}, torch.zeros(1, 2, 4, 5))["0.weight"]
    scores = synflow(network, (2, 4, 5))["0.weight"]
    torch.testing.assert_close(scores, gradient * network[0].weight.detach().double().abs())


def test_a_layer_that_the_output_does_not_need_has_no_flow():
    network = chain([[1.0, 1.0]], [[2.0]])
    network.unused = nn.Identity()
    network.unused.side = nn.Linear(2, 2)
    assert synflow(network, (2,))["unused.side.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


# In rounds


def test_rounds_share_their_work_and_give_the_masks_of_rounds_that_do_not(monkeypatch):
    monkeypatch.setattr("spl.criteria.synaptic_flow._SEARCH_INTERVAL", 1)
    network = ResNet(1)
    weights = prunable_parameters(network)
    batches = [(torch.zeros(1, 3, 16, 16), torch.zeros(1))]
    criterion, memo, masks = SynFlow(), {}, None
    for keep in Exponential(5).keeps(sum(p.numel() for p in weights.values()), 700):
        given = subject(network, batches, masks, keep, include_bias=False)
        alone = SynFlow()(given)
        shared = criterion(replace(given, memo=memo))
        for name in alone:
            torch.testing.assert_close(shared[name], alone[name])
        masks = top_k(alone, keep)
    assert not all(layer.is_whole for layer in memo[criterion].layers.values())


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_how_batch_norm_is_run_does_not_matter(batch_norm):
    network = ResNet(1)
    batches = [(torch.zeros(1, 3, 16, 16), torch.zeros(1))]
    masks = prune(network, SynFlow(), 0.9, batches, schedule=Exponential(3), batch_norm=batch_norm)
    assert masks == prune(network, SynFlow(), 0.9, batches, schedule=Exponential(3))
