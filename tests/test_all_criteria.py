"""Properties that every criterion has."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import spl.criteria
from spl.criteria import (
    FORCE,
    NPB,
    NTKSAP,
    PHEW,
    PX,
    SAO,
    ConnectionSensitivity,
    Criterion,
    GraSP,
    IterativeSNIP,
    Magnitude,
    ProsPr,
    Random,
    RedrawnWeights,
    ShuffledInLayers,
    SynFlow,
)
from spl.criteria.schedules import Exponential, OneShot
from spl.initializers import HeNormal
from spl.networks import MLP, VGG16, ResNet
from spl.pruning import PruningChoices, find_masks, prunable_parameters, prune, score

CRITERIA = [
    Magnitude(),
    Random(),
    PHEW(),
    SAO(),
    SynFlow(),
    NPB(),
    NTKSAP(draws=1),
    PX(),
    ConnectionSensitivity(),
    GraSP(),
    ProsPr(steps=1),
    IterativeSNIP(),
    FORCE(),
    ShuffledInLayers(ConnectionSensitivity()),
    RedrawnWeights(GraSP(), HeNormal()),
    RedrawnWeights(SynFlow(), HeNormal()),
]
NETWORKS = {
    "mlp": (lambda: MLP(3, 12, in_features=48), (3, 4, 4)),
    "vgg16": (lambda: VGG16(0.125), (3, 32, 32)),
    "resnet": (lambda: ResNet(1), (3, 16, 16)),
}

every_criterion = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)


class WithDropout(nn.Sequential):
    """A sequential network with BatchNorm, dropout and a bias."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.Tanh(),
            nn.Linear(5, 3),
        )


def batches(shape: tuple[int, ...] = (3, 4, 4), dtype: torch.dtype = torch.float32, sizes=(5, 3)) -> list:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(3, (sum(sizes),), generator=generator)
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def rounds(criterion: Criterion) -> Exponential | OneShot:
    """Return a few rounds if the criterion has many by default."""
    return Exponential(3) if criterion.schedule.rounds > 1 else OneShot()


def test_every_criterion_of_the_package_is_tested_here():
    exported = {getattr(spl.criteria, name) for name in spl.criteria.__all__}
    classes = {c for c in exported if isinstance(c, type) and issubclass(c, Criterion) and c is not Criterion}
    elsewhere = {spl.criteria.SNIP, spl.criteria.TrainedMagnitude}  # another name; and one that needs a checkpoint
    assert classes - elsewhere == {type(criterion) for criterion in CRITERIA}


@every_criterion
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NETWORKS)
def test_exactly_the_weights_asked_for_are_kept_and_chosen_alike_each_time(criterion, kind, dtype):
    make, shape = NETWORKS[kind]
    network = make().to(dtype)
    parameters = prunable_parameters(network)
    data = batches(shape, dtype)
    choices = PruningChoices(criterion=criterion, sparsity=0.9, schedule=rounds(criterion))
    masks, scores, *_ = find_masks(network, choices, data)
    assert masks.kept == round(masks.size * 0.1)
    assert {n: s.shape for n, s in scores.items()} == {n: p.shape for n, p in parameters.items()}
    assert all(torch.isfinite(s).all() and not s.requires_grad for s in scores.values())
    torch.rand(7)  # the position of the global random stream does not matter
    twin = copy.deepcopy(network)
    again, *_ = find_masks(twin, choices, data)
    assert again.digest() == masks.digest()


@every_criterion
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_pruning_leaves_no_trace(
    snapshot: Callable[[nn.Module], dict[str, Any]], criterion: Criterion, batch_norm: Any
) -> None:
    network = WithDropout()
    network(batches()[0][0]).sum().backward()
    network[1].eval()
    before = snapshot(network), dict(vars(criterion)), [dict(vars(module)) for module in network.modules()]
    prune(network, criterion, 0.5, batches(), schedule=rounds(criterion), batch_norm=batch_norm, include_bias=True)
    assert (snapshot(network), dict(vars(criterion))) == before[:2]
    for module, attributes in zip(network.modules(), before[2], strict=True):
        assert vars(module).keys() == attributes.keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@every_criterion
def test_scoring_leaves_no_trace_where_it_fails(
    snapshot: Callable[[nn.Module], dict[str, Any]], criterion: Criterion
) -> None:
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("no output")

    network = nn.Sequential(nn.Linear(48, 2), nn.ReLU(), Failing())
    before = snapshot(network)
    data = [(x.flatten(1), y) for x, y in batches()]
    if isinstance(criterion, (Magnitude, Random, PHEW, SAO)):
        prune(network, criterion, 0.5)
    else:
        with pytest.raises(RuntimeError, match="no output"):
            prune(network, criterion, 0.5, data)
    assert snapshot(network) == before
    assert all("forward" not in vars(module) for module in network.modules())


@every_criterion
def test_scores_do_not_depend_on_the_modes_in_which_the_network_is_found(criterion):
    network = WithDropout()
    parameters = prunable_parameters(network)
    first, second = (score(network.train(mode), parameters, criterion, batches()) for mode in (True, False))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "criterion", [c for c in CRITERIA if not isinstance(c, NTKSAP | ProsPr)], ids=lambda c: type(c).__name__
)  # NTK-SAP draws inputs in the shape of the first batch, and ProsPr takes a step of training on each batch
def test_scores_do_not_depend_on_how_examples_are_cut_into_batches(criterion):
    network = WithDropout().double()
    parameters = prunable_parameters(network)
    one, cut = (
        score(network, parameters, criterion, batches(dtype=torch.float64, sizes=sizes)) for sizes in ((8,), (3, 1, 4))
    )
    for name in one:
        torch.testing.assert_close(one[name], cut[name])


@every_criterion
def test_tied_weights_are_scored_once(criterion):
    network = nn.Sequential(nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[4].weight = network[2].weight
    data = [(x.flatten(1), y) for x, y in batches()]
    masks = prune(network, criterion, 0.5, data, schedule=rounds(criterion))
    assert (list(masks), masks.kept) == (["0.weight", "2.weight"], 162)


@every_criterion
def test_criteria_read_data_only_if_they_say_so(criterion):
    class Forbidden:
        def __iter__(self):
            raise AssertionError("read")

    network = WithDropout()
    reading = pytest.raises(AssertionError, match="read") if criterion.needs_data else nullcontext()
    with reading:
        score(network, prunable_parameters(network), criterion, Forbidden())


@every_criterion
def test_masks_do_not_depend_on_the_memory_format_or_on_compilation(criterion):
    network = WithDropout().double()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    other.compile()
    data = batches(dtype=torch.float64)
    masks = [prune(n, criterion, 0.5, data, schedule=rounds(criterion)).digest() for n in (network, other)]
    assert masks[0] == masks[1]
