import pytest
import torch
from subjects import chain, examples, subject
from torch import nn

from spl.criteria import (
    FORCE,
    ConnectionSensitivity,
    GraSP,
    Magnitude,
    RedrawnWeights,
    ShuffledInLayers,
    SynFlow,
)
from spl.criteria.schedules import Exponential
from spl.functional.seeded import seeded
from spl.initializers import Gaussian, HeNormal
from spl.masks.masks import Masks
from spl.masks.top_k import top_k
from spl.networks import MLP
from spl.pruning import prune


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("inner", [Magnitude(), ConnectionSensitivity(), GraSP(), SynFlow(), FORCE()])
@pytest.mark.parametrize("control", [ShuffledInLayers, lambda inner: RedrawnWeights(inner, HeNormal())])
def test_a_control_takes_what_the_criterion_inside_takes(control, inner):
    outer = control(inner)
    for attribute in ("needs_data", "passes", "revives", "schedule"):
        assert getattr(outer, attribute) == getattr(inner, attribute)
    assert outer.schedule.rounds == inner.schedule.rounds


# Shuffled


def test_shuffled_masks_have_the_layer_counts_of_the_criterion_s_and_other_places():
    net = network()
    scores = ConnectionSensitivity()(subject(net, [examples(5, 4)]))
    plain = top_k(scores, 20)
    shuffled = top_k(ShuffledInLayers(ConnectionSensitivity()).rearranged(scores), 20)
    assert plain.layer_sparsity() == shuffled.layer_sparsity()
    assert plain != shuffled


def test_shuffling_keeps_the_scores_of_each_layer_and_depends_on_the_seed_alone():
    scores = {"fc1": torch.arange(60.0).view(6, 10), "fc2": torch.arange(60.0, 90.0).view(3, 10)}
    first = ShuffledInLayers(Magnitude(), seed=1).rearranged(scores)
    torch.manual_seed(5)
    again = ShuffledInLayers(Magnitude(), seed=1).rearranged(scores)
    other = ShuffledInLayers(Magnitude(), seed=2).rearranged(scores)
    for name, score in scores.items():
        assert first[name].flatten().sort().values.tolist() == score.flatten().tolist()
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_shuffled_scores_are_in_their_places_until_the_last_round():
    net = network()
    given = subject(net, [examples(5, 4)])
    scores, expected = ShuffledInLayers(SynFlow())(given), SynFlow()(given)
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


# Redrawn


def test_redrawn_weights_are_scored_instead_of_the_network_s():
    net = chain([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]])
    scores = RedrawnWeights(Magnitude(), Gaussian(), seed=3)(subject(net))
    with seeded(3):
        expected = [Gaussian().fill_(w := torch.empty(shape).double()) or w.abs() for shape in ((2, 2), (1, 2))]
    for score, value in zip(scores.values(), expected, strict=True):
        assert torch.equal(score, value)


@pytest.mark.parametrize("inner", [ConnectionSensitivity(), GraSP(), SynFlow(), FORCE()])
def test_redrawn_weights_give_the_masks_of_a_network_that_has_them(inner):
    net, batches = network(), [examples(5, 4), examples(5, 4)]
    rounds = Exponential(3)
    masks = prune(net, RedrawnWeights(inner, Gaussian(1.0), seed=3), 0.7, batches, schedule=rounds)
    assert masks != prune(net, inner, 0.7, batches, schedule=rounds)
    with seeded(3):
        Gaussian(1.0)(net)
    assert masks == prune(net, inner, 0.7, batches, schedule=rounds)


def test_redrawn_weights_are_the_same_in_each_round_and_pruned_as_the_network_s():
    seen = []

    class Watching(Magnitude):
        def __call__(self, subject):
            seen.append({name: p.detach().clone() for name, p in subject.parameters.items()})
            return super().__call__(subject)

    net = MLP(2, 5, in_features=3)
    control = RedrawnWeights(Watching(), HeNormal())
    given = subject(net, include_bias=False)
    control(given)
    masks = Masks({name: torch.rand_like(w) > 0.5 for name, w in given.weights.items()})
    given.memo.clear()
    control(subject(net, masks=masks, include_bias=False))
    for name, first in seen[0].items():
        assert torch.equal(seen[1][name], first * masks[name])


def test_controls_can_be_combined():
    net, batches = network(), [examples(5, 4)]
    control = ShuffledInLayers(RedrawnWeights(ConnectionSensitivity(), HeNormal()))
    assert prune(net, control, 0.5, batches).sparsity == 0.5
