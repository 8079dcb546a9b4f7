"""The correction brings every layer to the floor of its mask, if it is asked for, and near it by default."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from memory import PeakMemory
from torch import nn

from spl.criteria import ConnectionSensitivity, Criterion, Random
from spl.data import MNISTSample
from spl.errors import InputError
from spl.initializers import Gaussian, Orthogonal
from spl.isometry import ApproximateIsometry, Change, PrunedLayer
from spl.isometry.approximate import DEFAULT_TOLERANCE, _blocks, _solving_device
from spl.isometry.solver import KeptEntries, minimize
from spl.isometry.structure import heaviest_matching
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import prune


def pruned(network: nn.Module, sparsity: float, criterion: Criterion, batches: list | None = None) -> Masks:
    Orthogonal()(network)
    masks = prune(network, criterion, sparsity, batches)
    masks.apply_(dict(network.named_parameters()))
    return masks


def worst_gap(network: nn.Module, masks: Masks) -> float:
    changes = ApproximateIsometry(tolerance=0.0)(network, masks).changes
    gaps = [abs(change.after.matrix - change.floor) / change.gain**2 for change in changes.values()]
    return float(torch.tensor(gaps).max())  # NaN, if one of them is


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.97, 0.98])
def test_every_layer_of_mlp_7_comes_to_its_floor(sparsity):
    data = MNISTSample(batch_size=500)
    data.setup("fit")
    batches = [(data.normalize(images), labels) for images, labels in data.scoring_dataloader(0)]
    network = MLP()
    masks = pruned(network, sparsity, ConnectionSensitivity(), batches)
    assert worst_gap(network, masks) < 5e-4
    assert masks.revived(dict(network.named_parameters())) == {}


@pytest.mark.parametrize(
    ("network", "sparsity"), [(lambda: ResNet(3), 0.9), (lambda: ResNet(5), 0.98), (lambda: VGG16(0.125), 0.95)]
)
def test_every_layer_of_convolutional_networks_comes_to_its_floor(network, sparsity):
    built = network()
    batches = [(torch.randn(20, 3, 32, 32), torch.arange(20) % 10)]
    assert worst_gap(built, pruned(built, sparsity, ConnectionSensitivity(), batches)) < 5e-4


def test_random_masks_in_which_a_descent_is_stuck_come_to_their_floors():
    masks = torch.rand(20, 60, 60) < 0.05
    weights = torch.randn(20, 60, 60) * 0.1 * masks
    entries = KeptEntries(masks)
    packed = entries.pack([w[m] for w, m in zip(weights, masks, strict=True)])
    layers = [nn.Linear(60, 60) for _ in range(20)]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight.clone())
    named = Masks({f"{i}.weight": mask for i, mask in enumerate(masks)})
    changes = ApproximateIsometry(tolerance=0.0)(nn.Sequential(*layers), named).changes.values()
    floors = torch.tensor([change.floor for change in changes], dtype=torch.float64)
    live = masks.any(2).sum(1)
    _, norms = minimize(entries, packed, (floors**2 - 60 + live).clamp(min=0).sqrt(), 4e-4, 1000)
    stuck = (norms**2 + 60 - live).sqrt() - floors > 0.01
    assert int(stuck.sum()) > 10
    assert max(change.after.matrix - change.floor for change in changes) < 5e-4


def test_of_several_optima_one_near_the_weights_is_found():
    """It is as near as random weights allow, and has the signs of the large ones."""
    weight = torch.randn(40, 40)
    mask = torch.rand(40, 40) < 0.2
    network = nn.Sequential(nn.Linear(40, 40, bias=False))
    network[0].weight = nn.Parameter(weight * mask)
    start = network[0].weight.detach().clone()
    ApproximateIsometry(tolerance=0.0)(network, Masks({"0.weight": mask}))
    near = network[0].weight.detach()
    cosine = float((near * start).sum() / near.norm() / start.norm())
    largest = start.abs() > start.abs().flatten().kthvalue(1590).values
    assert cosine > 0.4
    assert bool((near[largest] * start[largest] > -1e-3).all())


def test_the_answer_does_not_depend_on_the_scale_of_the_weights():
    mask = torch.rand(30, 30) < 0.15
    weight = torch.randn(30, 30)
    results = []
    for scale in (1e-4, 1.0, 1e4):
        network = nn.Sequential(nn.Linear(30, 30))
        network[0].weight = nn.Parameter(weight * scale)
        ApproximateIsometry(tolerance=0.0)(network, Masks({"0.weight": mask}))
        results.append(network[0].weight.detach())
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(results[2], results[1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("variance", [1e-4, 1.0])
def test_weights_of_zero_and_of_any_variance_come_to_the_floor(variance):
    network = MLP(depth=3, width=20)
    Gaussian(variance)(network)
    network.fc2.weight.data.zero_()
    masks = Masks({n: torch.rand_like(p) < 0.3 for n, p in network.named_parameters() if p.ndim > 1})
    assert worst_gap(network, masks) < 5e-4


@pytest.mark.parametrize(("kept", "pull"), [(5, 0.3), (6, 0.2), (11, 0.2), (12, 0.0)])
def test_a_descent_starts_the_nearer_to_the_weights_the_more_are_kept_for_each_equation(kept, pull, monkeypatch):
    """Three rows make six equations."""
    starts = []

    def noted(matrices, start, floors, tolerance, max_iterations):
        starts.append((max_iterations > 0, start[0].tolist()))
        return minimize(matrices, start, floors, tolerance, max_iterations)

    monkeypatch.setattr("spl.isometry.approximate.minimize", noted)
    order = torch.tensor([0, 1, 5, 6, 8, 10, 2, 3, 4, 7, 9, 11])
    mask = torch.zeros(12, dtype=torch.bool).index_fill(0, order[:kept], True).view(3, 4)
    network = nn.Sequential(nn.Linear(4, 3))
    network[0].weight = nn.Parameter(torch.randn(3, 4))
    start = network[0].weight.detach()[mask]
    matching = start.sign() * heaviest_matching(start, mask)
    expected = (1 - pull) * math.sqrt(3) / start.norm() * start + pull * matching
    change = ApproximateIsometry(tolerance=0.0)(network, Masks({"0.weight": mask})).changes["0.weight"]
    descents = [given for descends, given in starts if descends]
    assert descents[0] == pytest.approx(expected.tolist(), rel=1e-5)
    assert change.after.matrix == pytest.approx(change.floor, abs=5e-4)


def test_without_time_for_a_descent_the_matching_is_the_answer():
    mask = torch.rand(10, 10) < 0.3
    network = nn.Sequential(nn.Linear(10, 10))
    change = ApproximateIsometry(tolerance=0.0, max_iterations=1)(network, Masks({"0.weight": mask})).changes[
        "0.weight"
    ]
    assert change.after.matrix == pytest.approx(change.floor)
    assert set(network[0].weight.detach().unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_signals_pass_a_deep_linear_network():
    network = MLP(depth=60, width=64, activation="linear")
    masks = pruned(network, 0.75, Random())
    ApproximateIsometry(tolerance=0.0)(network, masks)
    values = singular_values(network, torch.randn(2, 784))
    assert float(values.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(values.std()) < 0.01


def test_memory_is_at_most_eight_copies_of_the_layer():
    network = nn.Sequential(nn.Linear(512, 512, bias=False))
    Orthogonal()(network)
    masks = Masks({"0.weight": torch.rand(512, 512) < 0.05})
    with PeakMemory() as memory:
        change = ApproximateIsometry(tolerance=0.01)(network, masks).changes["0.weight"]
    assert memory.peak <= 8 * 4 * 512**2
    assert change.after.matrix - change.floor < 0.01 * math.sqrt(512)


def cosine(network: nn.Module, masks: Masks, correction: ApproximateIsometry) -> tuple[float, dict[str, Change]]:
    """Correct a copy of the network; return the mean cosine between the weights before and after, and the changes."""
    twin = copy.deepcopy(network)
    changes = correction(twin, masks).changes
    pairs = [(network.get_parameter(name), twin.get_parameter(name)) for name in changes]
    cosines = [nn.functional.cosine_similarity(a.detach().flatten(), b.detach().flatten(), 0) for a, b in pairs]
    return float(torch.stack(cosines).mean()), changes


@pytest.mark.parametrize("network", [lambda: MLP(), lambda: ResNet(3), lambda: VGG16(0.125)])
def test_by_default_every_layer_comes_near_its_floor_and_stays_nearer_to_its_weights(network):
    built = network()
    shape = (784,) if isinstance(built, MLP) else (3, 32, 32)
    masks = pruned(built, 0.9, ConnectionSensitivity(), [(torch.randn(20, *shape), torch.arange(20) % 10)])
    near, changes = cosine(built, masks, ApproximateIsometry())
    for name, change in changes.items():
        n = min(built.get_parameter(name).flatten(1).shape)
        gap = (change.after.matrix - change.floor) / change.gain**2
        assert gap <= 1.0001 * DEFAULT_TOLERANCE * math.sqrt(n), name
    at_floor, exact = cosine(built, masks, ApproximateIsometry(tolerance=0.0))
    assert near >= at_floor - 0.005
    assert sum(c.vanished for c in changes.values()) < 0.5 * sum(c.vanished for c in exact.values())


def test_every_tolerance_below_a_thousandth_asks_for_the_floor():
    """As 0.0004 does, which stands in configurations that were written when tolerances were not relative to √n."""
    network = nn.Sequential(nn.Linear(30, 30))
    masks = Masks({"0.weight": torch.rand(30, 30) < 0.2})
    masks.apply_(dict(network.named_parameters()))
    found = [cosine(network, masks, ApproximateIsometry(tolerance=value)) for value in (0.0, 4e-4, 0.00099)]
    assert found[0] == found[1] == found[2]
    assert found[0] != cosine(network, masks, ApproximateIsometry(tolerance=0.002))


@pytest.mark.parametrize(("sides", "expected"), [((100, 784), "cpu"), ((256, 1024), "cpu"), ((512, 1024), "cuda")])
def test_small_matrices_are_solved_on_the_cpu_wherever_their_layer_is(sides, expected):
    (block,) = _blocks(PrunedLayer("fc1.weight", torch.ones(sides), torch.ones(sides) > 0, 1.0))
    assert _solving_device([replace(block, device=torch.device("cuda"))]).type == expected


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_below_zero_or_not_finite_is_an_error(tolerance):
    with pytest.raises(InputError, match=f"tolerance must be at least 0, got {tolerance}: 0 asks for the floor"):
        ApproximateIsometry(tolerance=tolerance)
