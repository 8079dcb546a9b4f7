import pytest
import torch
from subjects import chain, subject
from torch import nn

from spl.criteria import PHEW
from spl.criteria.phew import Transitions, first_walks
from spl.errors import InputError
from spl.masks.top_k import top_k
from spl.networks import MLP, VGG16, LeNet300, ResNet, WideResNet
from spl.pruning import prunable_parameters, prune


def on_paths(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return which kept weights lie on a path of kept weights from input to output."""
    layers = [mask.flatten(2).any(2) if mask.ndim > 2 else mask for mask in masks.values()]
    reached = [torch.ones(layers[0].shape[1], dtype=torch.bool)]
    for layer in layers:
        reached.append((layer & reached[-1].repeat_interleave(layer.shape[1] // len(reached[-1]))).any(1))
    needed = [torch.ones(layers[-1].shape[0], dtype=torch.bool)]
    for layer, units in zip(reversed(layers), reversed(reached[:-1]), strict=True):
        needed.append((layer & needed[-1][:, None]).any(0).view(len(units), -1).any(1))
    found = {}
    for (name, mask), before, after in zip(masks.items(), reached[:-1], needed[-2::-1], strict=True):
        inputs = before.repeat_interleave(mask.shape[1] // len(before))
        found[name] = mask & (after[:, None] & inputs).view(*mask.shape[:2], *(1,) * (mask.ndim - 2))
    return found


def test_walks_through_a_network_with_one_way_each_by_hand():
    # walk 0 leaves input 0 by its only weight; walk 1 starts at the output and takes the heavy weight, whose size makes
    # this almost certain; walk 2 leaves input 1
    layers = [torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]]).double(), torch.tensor([[[1e-12], [1.0]]]).double()]
    first = first_walks(layers, keep=2, generator=torch.Generator().manual_seed(0))
    assert [f.flatten().tolist() for f in first] == [[0, -1, -1, 1], [0, 1]]


def test_steps_are_taken_in_proportion_to_the_weights():
    edges = torch.tensor([[[1.0, 2.0], [0.0, 5.0]], [[0.0, 0.0], [3.0, 1.0]]]).double()  # 2 units, 2 ends, 2 taps
    units = torch.tensor([0, 1]).repeat(20_000)
    ends, taps = Transitions(edges).sample(units, torch.Generator().manual_seed(0))
    counts = torch.zeros(2, 2, 2).double().index_put((units, ends, taps), torch.ones(len(units)).double(), True)
    torch.testing.assert_close(counts / 20_000, edges / edges.sum((1, 2), keepdim=True), atol=0.01, rtol=0)
    assert counts[0, 1, 0] == counts[1, 0, 0] == 0


def test_a_step_stays_within_its_unit_where_sums_are_rounded():
    edges = torch.tensor([[[1e16]], [[2.0]], [[5.0]]], dtype=torch.float64)  # above 1e16 every second number is missing
    ends, taps = Transitions(edges).sample(torch.ones(100, dtype=torch.long), torch.Generator().manual_seed(0))
    assert ends.tolist() == taps.tolist() == [0] * 100


def test_the_first_walks_begin_in_proportion_to_the_weights():
    network = chain([[1.0], [3.0]], [[1.0, 1.0]])
    starts = torch.zeros(2)
    for seed in range(400):
        starts[int(PHEW(seed)(subject(network))["fc1.weight"][:, 0].argmax())] += 1
    assert float(starts[1]) / 400 == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize(
    "network",
    [
        lambda: MLP(4, 30, in_features=40),
        lambda: LeNet300(),
        lambda: VGG16(0.125),
        lambda: ResNet(1),
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
        ),
    ],
    ids=["mlp", "lenet300", "vgg16", "resnet", "flattened"],
)
def test_every_kept_weight_lies_on_a_path_but_for_the_last_walk_s(network):
    network = network()
    weights = {name: p.detach() for name, p in prunable_parameters(network).items()}
    keep = sum(w.numel() for w in weights.values()) // 5
    scores = PHEW()(subject(network, keep=keep, include_bias=False))
    scores = {name: scores[name] for name in weights}
    masks = top_k(scores, keep)
    last = min(float(s[masks[name]].min()) for name, s in scores.items() if masks[name].any())
    for name, useful in on_paths(dict(masks)).items():
        assert bool((useful | (scores[name] == last) | ~masks[name]).all())
    assert sum(int((s == last).sum()) for s in scores.values()) <= len(scores)


def test_what_no_walk_reached_comes_last_by_magnitude_and_then_the_biases():
    network = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1))
    network[0].weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    network[1].weight.data = torch.tensor([[1.0]])
    scores = PHEW()(subject(network, keep=1))
    assert scores["0.weight"][0, 0] == scores["1.weight"] == 0.0  # walk 0
    dead = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1))
    dead[0].weight.data = torch.tensor([[2.0, 1.0, 0.0]])
    dead[1].weight.data = torch.tensor([[1.0]])
    scores = PHEW()(subject(dead, keep=6))
    order = [*scores["0.weight"][0].tolist(), float(scores["0.bias"])]
    assert order == sorted(order, reverse=True)
    assert float(scores["0.bias"]) < min(float(scores["0.weight"].min()), float(scores["1.weight"]))


def test_masks_depend_on_the_seed_and_on_no_other_stream():
    network = MLP(3, 20, in_features=10)
    torch.manual_seed(1)
    first = prune(network, PHEW(seed=1), 0.8)
    torch.manual_seed(2)
    assert prune(network, PHEW(seed=1), 0.8) == first
    assert prune(network, PHEW(seed=2), 0.8) != first


@pytest.mark.parametrize("sparsity", [0.0, 0.01])
def test_walking_ends_although_nearly_every_weight_is_asked_for(sparsity):
    masks = prune(MLP(3, 30, in_features=50), PHEW(), sparsity)
    assert masks.kept == round(masks.size * (1 - sparsity))


def test_a_network_that_is_no_chain_is_an_error_that_names_the_layer():
    network = WideResNet(1, width_multiplier=2)
    message = (
        r"stage1\.block1\.body\.conv1\.weight takes 16 inputs, .* the 32 outputs of stage1\.block1\.shortcut\.weight"
    )
    with pytest.raises(InputError, match=message + r".*leave the layer out with exclude, or take SynFlow\."):
        prune(network, PHEW(), 0.5)
    assert prune(network, PHEW(), 0.5, exclude=["*.shortcut.weight"]).sparsity == 0.5


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 4, 3)])
def test_layers_whose_weights_are_no_edges_are_errors(layer):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), layer)
    with pytest.raises(InputError, match=r"1\.weight is a grouped or transposed convolution, .* take SynFlow\."):
        prune(network, PHEW(), 0.5)
