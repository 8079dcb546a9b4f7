import copy
import math
import re
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from spl.criteria import ConnectionSensitivity, Criterion, Magnitude, Random, scoring_loss
from spl.criteria.schedules import Exponential, Linear, OneShot, Schedule
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning import PruningChoices, Rule, find_masks, keep_count, prunable_parameters, prune, score, select
from spl.pruning.patterns import NM, Blocks, Channels, Unstructured
from spl.pruning.scopes import ERK, GivenDensities, Global, SmartRatio, Uniform

SIZES = st.lists(st.integers(1, 12), min_size=2, max_size=5)
SPARSITIES = st.floats(0.0, 0.99)
BATCH = (torch.linspace(-1, 1, 20).view(5, 4), torch.tensor([0, 1, 2, 1, 0]))


def mlp(sizes: list[int]) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*[layer for linear in layers for layer in (linear, nn.Tanh())][:-1])


def conv_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3)
    )


def image_batches() -> list:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 1, 4, 4, generator=generator) + 1, torch.randint(3, (5,), generator=generator))
        for _ in range(2)
    ]


def layer_scores(sizes: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"fc{i}": torch.rand(size, generator=generator) for i, size in enumerate(sizes)}


def counts(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


# How many


@given(
    SIZES,
    SPARSITIES,
    st.sampled_from([Global(), Uniform()]),
    st.sampled_from([ConnectionSensitivity(), Magnitude(), Random()]),
    st.booleans(),
)
def test_exactly_the_weights_asked_for_are_kept(sizes, sparsity, scope, criterion, include_bias):
    network = mlp(sizes)
    size = sum(a * b + (b if include_bias else 0) for a, b in pairwise(sizes))
    expected = round(size * (1 - sparsity))
    assume(expected > 0)
    batches = [(torch.randn(3, sizes[0]), torch.randint(sizes[-1], (3,)))]
    masks = prune(network, criterion, sparsity, batches, scope=scope, include_bias=include_bias)
    assert (masks.size, masks.kept) == (size, expected)
    masks.apply_(dict(network.named_parameters()))
    assert masks.revived(dict(network.named_parameters())) == {}


@pytest.mark.parametrize("scope", [Global(), Uniform()])
def test_sparsity_zero_keeps_everything(scope):
    assert prune(mlp([3, 4, 2]), Random(), 0.0, scope=scope).sparsity == 0.0


@given(st.sampled_from([Global(), Uniform()]), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_masks_are_nested_over_sparsities(scope, sizes, data):
    scores = layer_scores(sizes)
    low, high = sorted(data.draw(st.tuples(SPARSITIES, SPARSITIES)))
    assume(round(sum(sizes) * (1 - high)) > 0)
    small, large = select(scores, high, scope=scope), select(scores, low, scope=scope)
    assert all(not (small[name] & ~large[name]).any() for name in scores)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), SPARSITIES)
def test_layerwise_keeps_the_largest_of_each_layer(sizes, sparsity):
    assume(round(sum(sizes) * (1 - sparsity)) > 0)
    scores = layer_scores(sizes)
    for name, mask in select(scores, sparsity, scope=Uniform()).items():
        order = scores[name].argsort(descending=True)
        assert mask[order].tolist() == sorted(mask.tolist(), reverse=True)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), SPARSITIES)
def test_layerwise_layers_have_one_density_to_within_half_a_weight(sizes, sparsity):
    assume(round(sum(sizes) * (1 - sparsity)) > 0)
    kept = counts(select(layer_scores(sizes), sparsity, scope=Uniform()))
    lowest = max((k - 0.5) / n for k, n in zip(kept, sizes, strict=True))
    highest = min((k + 0.5) / n for k, n in zip(kept, sizes, strict=True))
    assert lowest <= highest


def test_layerwise_by_hand():
    scores = {"fc1": torch.tensor([9.0, 8.0, 7.0, 6.0]), "fc2": torch.tensor([[1.0, 2.0]]), "fc3": torch.zeros(4)}
    masks = select(scores, 0.5, scope=Uniform())
    assert masks["fc1"].tolist() == [True, True, False, False]
    assert masks["fc2"].tolist() == [[False, True]]
    assert masks["fc3"].tolist() == [True, True, False, False]
    assert counts(select(scores, 0.5, scope=Global())) == [4, 1, 0]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=20, max_size=60), SPARSITIES)
def test_of_equal_scores_the_earliest_are_kept_in_every_scope(values, sparsity):
    assume(round(len(values) * (1 - sparsity)) > 0)
    scores = {"fc1": torch.tensor(values)}
    keep = round(len(values) * (1 - sparsity))
    first = sorted(range(len(values)), key=lambda i: (-values[i], i))[:keep]
    for scope in (Global(), Uniform()):
        assert select(scores, sparsity, scope=scope)["fc1"].nonzero().flatten().tolist() == sorted(first)


@pytest.mark.parametrize("scope", [Global(), Uniform()])
def test_scores_that_are_not_finite_are_an_error_in_every_scope(scope):
    with pytest.raises(InputError, match="fc2: 1 of 2 saliency scores are NaN or infinite"):
        select({"fc1": torch.ones(2), "fc2": torch.tensor([1.0, float("nan")])}, 0.5, scope=scope)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90.0, float("nan")])
def test_a_sparsity_out_of_range_is_an_error(sparsity):
    with pytest.raises(InputError, match=rf"must lie in \[0, 1\), got {sparsity}: .* 0\.9 for 90 %"):
        keep_count(10, sparsity)


def test_a_sparsity_that_keeps_nothing_is_an_error_that_says_what_keeps_one():
    with pytest.raises(InputError, match=r"sparsity 0\.97 keeps none of 10 weights: at most 0\.9\d* keeps one"):
        keep_count(10, 0.97)


@given(st.integers(1, 10**8))
@example(10_530_000)
def test_the_sparsity_that_is_advised_keeps_a_weight(size):
    with pytest.raises(InputError) as error:
        keep_count(size, math.nextafter(1, 0))
    advised = float(re.search(r"at most ([\d.e-]+) keeps one", str(error.value))[1])
    assert keep_count(size, advised) == 1


def test_what_cannot_be_pruned_is_refused_before_any_data_is_read():
    def batches():
        raise AssertionError("read")
        yield

    with pytest.raises(InputError, match="keeps none of 8 weights"):
        prune(mlp([4, 2]), ConnectionSensitivity(), 0.99, batches())
    with pytest.raises(InputError, match="must lie in"):
        prune(mlp([4, 2]), ConnectionSensitivity(), 1.0, batches())


# Which parameters


def test_weights_of_linear_and_convolutional_layers_are_prunable():
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 2, 3),
        nn.BatchNorm1d(2),
        nn.LayerNorm(2),
        nn.Embedding(3, 2),
        nn.PReLU(),
        nn.Linear(2, 2, bias=False),
    )
    assert list(prunable_parameters(network)) == ["0.weight", "1.weight", "6.weight"]
    assert list(prunable_parameters(network, include_bias=True)) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "6.weight",
    ]


def test_prunable_parameters_are_the_networks_own():
    network = mlp([4, 3, 2])
    assert prunable_parameters(network)["2.weight"] is network[2].weight


def test_a_single_layer_is_a_network():
    assert list(prunable_parameters(nn.Linear(2, 2))) == ["weight"]


def test_frozen_parameters_are_not_pruned():
    network = mlp([4, 3, 2])
    network[0].weight.requires_grad_(False)
    assert list(prunable_parameters(network, include_bias=True)) == ["0.bias", "2.weight", "2.bias"]
    assert prune(network, ConnectionSensitivity(), 0.5, [(BATCH[0], BATCH[1] % 2)]).size == 6


def test_tied_weights_are_counted_once():
    network = mlp([3, 3, 3])
    network[2].weight = network[0].weight
    assert list(prunable_parameters(network)) == ["0.weight"]
    twice = nn.Sequential(shared := nn.Linear(3, 3), nn.Tanh(), shared)
    assert list(prunable_parameters(twice)) == ["0.weight"]


def test_a_linear_weight_that_is_tied_to_an_embedding_is_prunable():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    network[1].weight = network[0].weight
    parameters = prunable_parameters(network)
    assert list(parameters.values()) == [network[1].weight]
    prune(network, Random(), 0.5).apply_(dict(network.named_parameters()))
    assert int((network[1].weight == 0).sum()) == 7


def test_excluded_parameters_stay_dense():
    network = mlp([4, 3, 2])
    assert list(prunable_parameters(network, exclude=["0.*"])) == ["2.weight"]
    assert list(prunable_parameters(network, True, ["*.bias", "0.weight"])) == ["2.weight"]
    assert list(prune(network, Random(), 0.5, exclude=["2.weight"])) == ["0.weight"]


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_names():
    with pytest.raises(InputError, match=r"exclude: 'fc9\.\*' matches none of the parameters 0\.weight, 2\.weight"):
        prunable_parameters(mlp([4, 3, 2]), exclude=["0.weight", "fc9.*"])


def test_patterns_that_leave_nothing_are_an_error():
    with pytest.raises(InputError, match=r"exclude: \['0\.\*', '2\.\*'\] leaves nothing to prune of 0\.weight, 2\.w"):
        prunable_parameters(mlp([4, 3, 2]), exclude=["0.*", "2.*"])


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)]
)
def test_a_network_without_weights_to_prune_is_an_error(network):
    with pytest.raises(InputError, match="Sequential has no weights to prune: it needs trainable Linear or conv"):
        prunable_parameters(network)


# On which data


def test_a_criterion_that_needs_data_says_so():
    with pytest.raises(InputError, match=r"ConnectionSensitivity scores .* got none: .*\(Magnitude, Random, PHEW\)"):
        prune(mlp([4, 3]), ConnectionSensitivity(), 0.5)


@pytest.mark.parametrize("batches", [[], (), iter(())])
def test_data_without_batches_is_an_error(batches):
    with pytest.raises(InputError, match=r"The scoring data has no batches: give at least one\."):
        prune(mlp([4, 3]), ConnectionSensitivity(), 0.5, batches)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(*BATCH, strict=True)


@pytest.mark.parametrize("batches", [(BATCH,), iter([BATCH]), DataLoader(Stream(), batch_size=2)])
def test_batches_are_any_iterable(batches):
    torch.manual_seed(0)
    network = mlp([4, 3, 3])
    masks = prune(network, ConnectionSensitivity(), 0.5, batches)
    assert masks.digest() == prune(network, ConnectionSensitivity(), 0.5, [BATCH]).digest()


@pytest.mark.parametrize("misspelled", [{"targets": "label"}, {"batch_norm": "train"}], ids=lambda d: next(iter(d)))
def test_a_misspelled_choice_is_an_error(misspelled):
    with pytest.raises(InputError, match=next(iter(misspelled.values()))):
        prune(mlp([4, 3, 3]), ConnectionSensitivity(), 0.5, [BATCH], **misspelled)


# Scoring


@pytest.mark.parametrize("criterion", [ConnectionSensitivity(), Magnitude(), Random()])
@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_pruning_leaves_the_network_as_it_was_found(snapshot, criterion, batch_norm):
    network = conv_network()
    x, _ = image_batches()[0]
    network(x).sum().backward()
    network[1].eval()
    before = snapshot(network)
    prune(network, criterion, 0.5, image_batches(), batch_norm=batch_norm)
    assert snapshot(network) == before


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("targets", ["labels", "uniform", "prediction_softmax", "prediction_logits"])
def test_scores_are_those_of_the_very_weights_that_are_trained(training, targets):
    network = conv_network().train(training)
    parameters = prunable_parameters(network)
    scores = score(network, parameters, ConnectionSensitivity(), image_batches(), targets)
    network.eval()
    for x, y in image_batches():
        scoring_loss(targets)(network(x), y).backward()
    products = {name: (p * p.grad).abs().detach() for name, p in parameters.items()}
    total = sum(product.sum() for product in products.values())
    for name, product in products.items():
        torch.testing.assert_close(scores[name], product / total)
    masks = select(scores, 0.8)
    masks.apply_(dict(network.named_parameters()))
    lowest = min(float(products[name][mask].min()) for name, mask in masks.items() if mask.any())
    highest = max(float(products[name][~mask].max()) for name, mask in masks.items())
    assert lowest >= highest
    assert int((network[0].weight != 0).sum() + (network[5].weight != 0).sum()) == masks.kept == round(63 * 0.2)


def test_batch_norm_is_scored_by_running_statistics_or_by_those_of_each_batch():
    network = conv_network()
    network[3] = nn.Identity()
    parameters = prunable_parameters(network)
    found = {}
    for batch_norm in ("eval", "batch"):
        found[batch_norm] = score(network, parameters, ConnectionSensitivity(), image_batches(), batch_norm=batch_norm)
        twin = copy.deepcopy(network).train(batch_norm == "batch")
        for x, y in image_batches():
            scoring_loss("labels")(twin(x), y).backward()
        product = (twin[0].weight * twin[0].weight.grad).abs()
        total = product.sum() + (twin[5].weight * twin[5].weight.grad).abs().sum()
        torch.testing.assert_close(found[batch_norm]["0.weight"], (product / total).detach())
    assert not torch.allclose(found["eval"]["0.weight"], found["batch"]["0.weight"], rtol=0.1)


def test_dropout_does_not_disturb_scores():
    network = conv_network().train()
    first, second = (prune(network, ConnectionSensitivity(), 0.5, image_batches()) for _ in range(2))
    assert first.digest() == second.digest()


def test_magnitude_pruning_by_hand():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.1, -5.0], [3.0, 0.2]]))
        network[1].weight.copy_(torch.tensor([[-4.0, 0.3]]))
    masks = prune(network, Magnitude(), 0.5)
    assert masks["0.weight"].tolist() == [[False, True], [True, False]]
    assert masks["1.weight"].tolist() == [[True, False]]


# Rounds, minimum, controls


class Iterative(Criterion):
    """Random scores, drawn again in each round, also for pruned weights."""

    needs_data = False
    schedule = Linear(3)

    def __init__(self):
        self.seen = []

    def __call__(self, subject):
        self.seen.append(subject.masks)
        generator = torch.Generator().manual_seed(len(self.seen))
        return {name: torch.randint(5, w.shape, generator=generator) + 1.0 for name, w in subject.weights.items()}


class Reviving(Iterative):
    revives = True


class Reversed(Iterative):
    """A control that moves every score inside its layer."""

    def rearranged(self, scores):
        self.lowest = [float(s.min()) for s in scores.values()]
        return {name: s.flatten().flip(0).view(s.shape) for name, s in scores.items()}


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3).map(lambda n: 4 * n)), min_size=1, max_size=3),
    st.sampled_from([Global(), Uniform(), ERK(), SmartRatio()]),
    st.sampled_from([Unstructured(), Blocks(2, 4), Channels(), NM(1, 2)]),
    st.sampled_from([None, OneShot(), Exponential(4), Linear(2)]),
    st.integers(0, 2),
)
def test_rounds_are_nested_and_end_at_what_is_asked_for(shapes, scope, pattern, schedule, minimum):
    network = nn.Sequential(*[nn.Linear(b, a, bias=False) for a, b in shapes])
    sparsity = 0.5 if isinstance(pattern, NM) else 0.3
    sizes = [a * b for a, b in shapes]
    keep = round(sum(sizes) * (1 - sparsity))
    unit = {Unstructured: 1, NM: 1, Blocks: 8, Channels: max(b for _, b in shapes)}[type(pattern)]
    assume(keep >= (unit + minimum) * len(shapes) * 2)
    criterion = Iterative()
    last = prune(network, criterion, sparsity, scope=scope, pattern=pattern, minimum=minimum, schedule=schedule)
    assert keep - unit < last.kept <= keep
    assert min(counts(last)) >= minimum
    masks = [*criterion.seen[1:], last]
    assert len(masks) == (schedule or criterion.schedule).rounds
    for before, after in pairwise(masks):
        assert all(not (after[name] & ~before[name]).any() for name in after)
    if isinstance(pattern, NM):
        assert all(bool((mask.view(-1, 2).sum(1) == 1).all()) for mask in last.values())


class Hasty(Schedule):
    """Would leave nothing after the first round."""

    def density(self, final, progress):
        return 0.0


def test_no_round_keeps_fewer_weights_than_the_last():
    assert Hasty(3).keeps(size=10, keep=4) == [4, 4, 4]


def test_a_reviving_criterion_chooses_among_all_in_every_round():
    network = mlp([10, 10, 5])
    plain, reviving = Iterative(), Reviving()
    prune(network, plain, 0.8)
    last = prune(network, reviving, 0.8)
    assert any(bool((last[name] & ~reviving.seen[-1][name]).any()) for name in last)
    generator = torch.Generator().manual_seed(3)
    scores = {n: torch.randint(5, p.shape, generator=generator) + 1.0 for n, p in prunable_parameters(network).items()}
    assert last == select(scores, 0.8)


@pytest.mark.parametrize("pattern", [Unstructured(), Blocks(2, 2), Channels()])
@pytest.mark.parametrize("scope", [Global(), ERK()])
@pytest.mark.parametrize("criterion", [Iterative, Reversed])
def test_rearranged_scores_keep_as_many_of_each_layer(pattern, scope, criterion):
    network = mlp([12, 10, 6])
    plain = prune(network, Iterative(), 0.7, scope=scope, pattern=pattern)
    moved = prune(network, (control := criterion()), 0.7, scope=scope, pattern=pattern)
    assert counts(moved) == counts(plain)
    assert (moved == plain) == (criterion is Iterative)
    if criterion is Reversed:  # called once, with pruned weights at the bottom
        assert control.lowest == [torch.finfo(next(iter(pattern.pooled(torch.ones(2, 2)))).dtype).min] * 2


def test_n_of_m_holds_for_rearranged_scores():
    masks = prune(nn.Linear(8, 6), Reversed(), 0.5, pattern=NM())
    assert bool((masks["weight"].view(-1, 4).sum(1) == 2).all())


def test_a_minimum_is_kept_of_every_layer_and_the_total_stays():
    scores = {"fc1": torch.arange(10.0), "fc2": torch.arange(4.0) - 10, "fc3": torch.arange(2.0) - 20}
    assert counts(select(scores, 0.5)) == [8, 0, 0]
    masks = select(scores, 0.5, minimum=3)
    assert counts(masks) == [3, 3, 2]
    assert masks["fc2"].tolist() == [False, True, True, True]
    assert counts(select(scores, 0.25, minimum=1)) == [10, 1, 1]
    with pytest.raises(InputError, match=r"8 of 16 weights .* scope Uniform, .* minimum 4 keep at least 10.* 0\.375\."):
        select(scores, 0.5, scope=Uniform(), minimum=4)


def test_a_negative_minimum_is_an_error():
    with pytest.raises(InputError, match="minimum must be at least 0, got -1"):
        prune(mlp([4, 2]), Random(), 0.5, minimum=-1)


# Layer collapse


def collapse(scores, *choices) -> dict[str, float]:
    rule = Rule(*choices)
    return rule.collapse_sparsities(rule.pooled(scores), {name: tuple(s.shape) for name, s in scores.items()})


SCORES = {
    "fc1": torch.tensor([[8.0, 7.0], [6.0, 1.0]]),
    "fc2": torch.tensor([[5.0, 4.0]]),
    "fc3": torch.tensor([[9.0, 2.0]]),
    "fc3.bias": torch.zeros(2),
}


def test_collapse_sparsities_by_hand():
    assert collapse(SCORES) == {"fc1": 0.9, "fc2": 0.6, "fc3": 1.0}
    assert collapse(SCORES, Uniform()) == {"fc1": 1.0, "fc2": 0.9, "fc3": 0.8}
    assert collapse(SCORES, GivenDensities({"fc2": 0.0, "fc1": 0.25})) == {"fc1": 1.0, "fc2": 0.5, "fc3": 0.9}
    assert collapse(SCORES, Global(), Unstructured(), 1) == {"fc1": 1.0, "fc2": 1.0, "fc3": 1.0}
    means = collapse(SCORES, Global(), Channels())  # 7.5 and 3.5; 4.5; 5.5; 0 and 0; units have two weights
    assert means == {"fc1": 0.9, "fc2": 0.5, "fc3": 0.7}


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.sampled_from([Global(), Uniform(), ERK(), SmartRatio()]),
    st.sampled_from([Unstructured(), Blocks(2, 2), Channels()]),
    st.integers(1, 8),
    st.integers(0, 10**6),
)
def test_every_layer_is_empty_from_its_collapse_sparsity_on(sizes, scope, pattern, values, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"fc{i}": torch.randint(values, (2, n), generator=generator).double() for i, n in enumerate(sizes)}
    size = sum(s.numel() for s in scores.values())
    for name, limit in collapse(scores, scope, pattern).items():
        if limit < 1:
            assert select(scores, max(0.0, limit - 1 / size), scope=scope, pattern=pattern)[name].any()
            with suppress(InputError):  # where so little cannot be kept
                assert not select(scores, limit, scope=scope, pattern=pattern)[name].any()


def test_a_layer_that_an_early_round_emptied_collapses_within_what_that_round_kept():
    class SecondOnly(Iterative):
        schedule = Linear(4)  # keeps 25, 18, 10, 3

        def __call__(self, subject):
            return {"0.weight": torch.zeros(4, 4), "2.weight": torch.arange(16.0).view(4, 4) + 1}

    network, criterion = mlp([4, 4, 4]), SecondOnly()
    masks, scores, *_ = find_masks(network, PruningChoices(criterion=criterion, sparsity=0.9))
    assert counts(masks) == [0, 3]
    assert Rule().collapse_sparsities(scores, dict.fromkeys(scores, (4, 4))) == {"0.weight": 0.6875, "2.weight": 1}
