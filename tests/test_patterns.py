"""Patterns: which weights are kept together."""

from collections import Counter
from contextlib import nullcontext
from itertools import combinations, product

import pytest
import torch
from fits import ZerosStay, classifier, fit, pruning
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from spl import prune
from spl.criteria import Magnitude, Random
from spl.criteria.schedules import Exponential, Linear
from spl.errors import InputError
from spl.isometry import ApproximateIsometry
from spl.jacobian import singular_values
from spl.masks.masks import Masks
from spl.masks.top_k import lowered
from spl.networks import MLP
from spl.pruning import select
from spl.pruning.patterns import NM, Blocks, Channels, TransposableNM, Unstructured
from spl.pruning.scopes import ERK, GivenDensities, Global, SmartRatio, Uniform

PATTERNS = [Unstructured(), Blocks(2, 3), Blocks(1, 4), Channels()]
SCOPES = [Global(), Uniform(), ERK(), SmartRatio()]
SHAPES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6)) | st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(2)),
    min_size=1,
    max_size=4,
)


def scores_of(shapes, seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"fc{i}": torch.randint(8, shape, generator=generator) / 8 for i, shape in enumerate(shapes)}


def rectangles(mask, pattern):
    """Return the parts of a mask that are kept together."""
    matrix = mask.flatten(1)
    rows, columns = (1, matrix.shape[1]) if isinstance(pattern, Channels) else (pattern.rows, pattern.columns)
    return [block for strip in matrix.split(rows) for block in strip.split(columns, 1)]


@given(SHAPES, st.sampled_from(PATTERNS[1:]), st.sampled_from(SCOPES), st.floats(0, 0.9), st.integers(0, 99))
def test_blocks_and_channels_are_whole_and_miss_the_number_by_less_than_one(shapes, pattern, scope, sparsity, seed):
    scores = scores_of(shapes, seed)
    size = sum(s.numel() for s in scores.values())
    keep = round(size * (1 - sparsity))
    largest = max(block.numel() for s in scores.values() for block in rectangles(s, pattern))
    assume(keep >= largest + (sum(s.numel() for s in scores.values()) if isinstance(scope, SmartRatio) else 0) * 0.5)
    masks = select(scores, sparsity, scope=scope, pattern=pattern)
    assert keep - largest < masks.kept <= keep
    for mask in masks.values():
        assert all(bool(block.all()) or not block.any() for block in rectangles(mask, pattern))


@given(SHAPES, st.sampled_from(PATTERNS), st.sampled_from(SCOPES), st.tuples(*[st.floats(0, 0.4)] * 2))
def test_masks_of_every_pattern_are_nested_over_sparsities(shapes, pattern, scope, sparsities):
    scores = scores_of([(8, 6), *shapes])
    large, small = (select(scores, sparsity, scope=scope, pattern=pattern) for sparsity in sorted(sparsities))
    assert all(not (small[name] & ~large[name]).any() for name in scores)


def test_blocks_by_hand():
    scores = torch.tensor([[1.0, 1.0, 9.0], [1.0, 5.0, 8.0], [7.0, 0.0, 6.5]])
    pooled = Blocks(2, 2).pooled(scores)
    assert pooled.tolist() == [[2.0, 8.5], [3.5, 6.5]]
    assert Blocks(2, 2).sizes((3, 3)).tolist() == [[4, 2], [2, 1]]
    mask = select({"fc1": scores}, 1 - 5 / 9, pattern=Blocks(2, 2))["fc1"]
    assert mask.int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    mask = select({"fc1": scores}, 1 - 4 / 9, pattern=Blocks(2, 2))["fc1"]  # keep 4: units of 2 and 1; the next has 2
    assert mask.int().tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_channels_of_different_fan_in_compare_by_their_means():
    scores = {"conv": torch.full((2, 3, 2, 2), 1.0), "fc": torch.tensor([[2.0, 2.0], [0.5, 0.5]])}
    scores["conv"][0] = 1.5
    masks = select(scores, 1 - 16 / 28, pattern=Channels())
    assert masks["fc"].tolist() == [[True, True], [False, False]]
    assert masks["conv"][0].all()
    assert not masks["conv"][1].any()


def test_biases_are_units_of_one():
    scores = {"fc": torch.tensor([[2.0, 2.0], [0.5, 0.5]]), "bias": torch.tensor([1.0, 3.0])}
    assert select(scores, 0.5, pattern=Channels())["bias"].tolist() == [False, True]
    assert select(scores, 0.5, pattern=Blocks(2, 2))["bias"].tolist() == [True, True]


def test_each_mask_has_memory_of_its_own():
    masks = select({"fc1": torch.rand(5, 7), "fc2": torch.rand(3, 4)}, 0.5, pattern=Blocks(4, 4))
    assert [mask.untyped_storage().nbytes() for mask in masks.values()] == [35, 12]


@pytest.mark.parametrize("pattern", [Blocks(2, 2), Blocks(4, 2)])
def test_of_equal_blocks_of_several_sizes_no_more_is_kept_than_is_asked_for(pattern):
    """Which of them are kept decides how many weights these have."""
    for keep in range(8, 82):
        kept = select({"fc1": torch.ones(9, 9)}, 1 - keep / 81, pattern=pattern)["fc1"].sum()
        assert keep - 8 < kept <= keep


def test_a_minimum_keeps_whole_units():
    scores = {"fc1": torch.ones(4, 4), "fc2": torch.zeros(4, 4)}
    assert int(select(scores, 0.5, pattern=Channels(), minimum=5)["fc2"].sum()) == 8
    assert int(select(scores, 0.25, pattern=Blocks(3, 3), minimum=1)["fc2"].sum()) == 9


def test_less_than_a_unit_is_an_error():
    match = r"3 of 16 weights .* pattern Channels and minimum 0 keep at least 4: ask for a sparsity of at most 0\.75\."
    with pytest.raises(InputError, match=match):
        select({"fc1": torch.rand(4, 4)}, 1 - 3 / 16, pattern=Channels())


def test_given_densities_of_whole_units_allow_what_is_less_than_one_unit_more_than_they_keep():
    scores = {"fc1": torch.rand(4, 4), "fc2": torch.rand(4, 4)}
    scope = GivenDensities({"fc*": 0.5})
    for keep in (16, 17, 19):
        assert [int(m.sum()) for m in select(scores, 1 - keep / 32, scope=scope, pattern=Channels()).values()] == [8, 8]
    with pytest.raises(InputError, match=r"20 of 32 weights .* keep at most 16: ask for a sparsity of at least 0\.5\."):
        select(scores, 1 - 20 / 32, scope=scope, pattern=Channels())
    with pytest.raises(InputError, match=r"15 of 32 weights .* keep at least 16: ask for a sparsity of at most 0\.5\."):
        select(scores, 1 - 15 / 32, scope=scope, pattern=Channels())


# N:M


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from([(1, 2), (2, 4), (3, 4), (1, 8), (4, 4)]),
    st.sampled_from([Global(), Uniform(), ERK(), SmartRatio(last=0.1)]),
)
def test_of_every_m_weights_exactly_the_n_largest_are_kept_in_every_scope(sizes, n_of_m, scope):
    n, m = n_of_m
    scores = scores_of([(out, groups * m) for out, groups in sizes])
    masks = select(scores, 1 - n / m, scope=scope, pattern=NM(n, m))
    for name, mask in masks.items():
        for kept, values in zip(mask.view(-1, m), scores[name].view(-1, m), strict=True):
            best = sorted(range(m), key=lambda i: (-values[i], i))[:n]
            assert kept.nonzero().flatten().tolist() == sorted(best)


def test_of_many_equal_scores_in_a_group_the_earlier_are_kept():
    """PyTorch's own order of equal numbers is arbitrary from 17 on."""
    mask = select({"fc1": torch.ones(2, 64)}, 0.75, pattern=NM(8, 32))["fc1"]
    assert mask.view(4, 32)[:, :8].all()
    assert mask.sum() == 4 * 8


def test_the_m_weights_of_a_convolution_are_input_channels_of_one_tap():
    scores = torch.rand(3, 8, 2, 3)
    mask = select({"conv": scores}, 0.5, pattern=NM())["conv"]
    assert mask.shape == scores.shape
    for out in range(3):
        for y in range(2):
            for x in range(3):
                assert mask[out, :, y, x].view(2, 4).sum(1).tolist() == [2, 2]
                order = scores[out, :4, y, x].argsort(descending=True)
                assert mask[out, order, y, x].tolist() == [True, True, False, False]


@given(st.integers(1, 2), st.integers(1, 3), st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (4, 4)]))
@settings(max_examples=20)
def test_a_transposable_mask_keeps_n_of_m_along_both_axes_and_none_keeps_more(down, across, n_of_m):
    n, m = n_of_m
    (score,) = scores_of([(down * m, across * m)]).values()
    mask = select({"fc1": score}, 1 - n / m, pattern=TransposableNM(n, m))["fc1"]
    for top, left in product(range(0, down * m, m), range(0, across * m, m)):
        kept, tile = (whole[top : top + m, left : left + m] for whole in (mask, score))
        assert kept.sum(0).tolist() == kept.sum(1).tolist() == [n] * m
        sums = [
            sum(float(tile[row, list(columns)].sum()) for row, columns in enumerate(rows))
            for rows in product(combinations(range(m), n), repeat=m)
            if set(Counter(column for columns in rows for column in columns).values()) == {n}
        ]
        assert float(tile[kept].sum()) == pytest.approx(max(sums))


def test_transposable_masks_of_a_convolution_and_in_rounds():
    network = nn.Conv2d(8, 4, 3)
    masks = prune(network, Random(), 0.5, pattern=TransposableNM(), schedule=Exponential(3))
    assert set(masks["weight"].unflatten(1, (2, 4)).sum(2).flatten().tolist()) == {2}
    assert set(masks["weight"].sum(0).flatten().tolist()) == {2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_transposable_mask_keeps_no_pruned_weight_where_another_mask_keeps_none(dtype):
    """Whatever the scores of what is left: the pruned ones have the lowest number of the type."""
    alive = torch.eye(4).roll(1, 0).bool() | torch.eye(4).bool()
    scores = torch.full((4, 4), 100.0, dtype=dtype).masked_fill(alive, -3.0)
    mask = TransposableNM().first(lowered({"fc1": scores}, Masks({"fc1": alive}))["fc1"])
    assert mask.tolist() == alive.tolist()


def test_what_cannot_be_transposable_is_refused():
    with pytest.raises(InputError, match=r"fc1 has an output dimension of 6, which 2:4 .* exclude: \[fc1\]"):
        select({"fc1": torch.rand(6, 8)}, 0.5, pattern=TransposableNM())
    with pytest.raises(InputError, match=r"m must be at most 4, as all masks of a tile are compared, got 8"):
        TransposableNM(4, 8)


def test_another_sparsity_than_that_of_n_of_m_is_an_error_that_says_which():
    with pytest.raises(InputError, match=r"2:4 keeps 2 of every 4 .* 0\.9 is asked for: set sparsity to 0\.5\."):
        select({"fc1": torch.rand(10, 8)}, 0.9, pattern=NM())
    with pytest.raises(InputError, match=r"set sparsity to 0\.875\."):
        select({"fc1": torch.rand(10, 8)}, 0.5, pattern=NM(1, 8))


def test_a_layer_that_m_does_not_divide_is_refused_by_name():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    match = r"0\.weight has an input dimension of 1, which 2:4 cannot divide .* exclude: \[0\.weight\]\."
    with pytest.raises(InputError, match=match):
        prune(network, Random(), 0.5, pattern=NM())
    assert prune(network, Random(), 0.5, pattern=NM(), exclude=["0.weight"]).kept == 288
    with pytest.raises(InputError, match=r"1\.bias has no input dimension"):
        prune(network, Random(), 0.5, pattern=NM(), include_bias=True, exclude=["0.weight", "0.bias"])


@pytest.mark.parametrize("n_of_m", [(0, 4), (5, 4)])
def test_impossible_n_of_m_are_refused(n_of_m):
    with pytest.raises(InputError, match=r"n must lie in \[1, m\], got n = \d and m = 4"):
        NM(*n_of_m)


def test_blocks_without_sides_are_refused():
    with pytest.raises(InputError, match="rows and columns must be at least 1, got 0 and 4"):
        Blocks(0, 4)


def test_a_density_that_contradicts_n_of_m_is_an_error():
    with pytest.raises(InputError, match=r"fc1: density 0\.25 keeps 4 of 16, but pattern or minimum keep 8 at least"):
        select({"fc1": torch.rand(4, 4)}, 0.5, scope=GivenDensities({"fc1": 0.25}), pattern=NM())


# In use


@pytest.mark.parametrize(("more", "fits"), [(-1, False), (0, True), (783, True), (784, False)])
def test_masks_of_whole_units_are_taken_for_those_of_a_sparsity_that_asks_for_less_than_a_unit_more(more, fits):
    model = classifier(MLP(depth=2, width=4))
    weight = model.network.fc1.weight
    masks = Masks({"fc1.weight": torch.tensor([[True], [False], [False], [True]]).expand_as(weight).clone()})
    model.set_masks(masks)
    callback = pruning(sparsity=1 - (2 * 784 + more) / (4 * 784), pattern=Channels(), exclude=["fc2.*"])
    with nullcontext() if fits else pytest.raises(InputError, match="The network is pruned already"):
        fit(model, [callback], limit_train_batches=1)
    assert model.masks == masks


IN_USE = [(NM(), 0.5), (Blocks(5, 4), 0.8), (Channels(), 0.5)]


@pytest.mark.parametrize(("pattern", "sparsity"), IN_USE)
def test_convolutions_of_every_pattern_are_corrected_and_measured(pattern, sparsity):
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 3))
    masks = prune(network, Magnitude(), sparsity, pattern=pattern, exclude=["4.weight"], schedule=Linear(2))
    masks.apply_(dict(network.named_parameters()))
    ApproximateIsometry(max_iterations=5)(network, masks)
    assert masks.revived(dict(network.named_parameters())) == {}
    assert bool((singular_values(network, torch.randn(2, 4, 6, 6)) > 0).any())


@pytest.mark.parametrize(("pattern", "sparsity"), IN_USE)
def test_correction_spectra_and_training_keep_the_pattern(pattern, sparsity):
    model, check = classifier(MLP(depth=3, width=20)), ZerosStay()
    options = {"pattern": pattern, "sparsity": sparsity, "exclude": ["fc3.*"], "schedule": Exponential(3)}
    callback = pruning(isometry=ApproximateIsometry(max_iterations=20), criterion=Magnitude(), **options)
    fit(model, [callback, check])
    assert check.steps == 6
    assert set(callback.changes) == {"fc1.weight", "fc2.weight"}
    assert all(change.after.matrix <= change.before.matrix for change in callback.changes.values())
    assert model.masks == prune(
        classifier(MLP(depth=3, width=20)).network, Magnitude(), sparsity, pattern=pattern, exclude=["fc3.*"],
        schedule=Exponential(3),
    )  # fmt: skip
    assert bool(singular_values(model.network, torch.randn(4, 784)).isfinite().all())
    fit(model, [pruning(**options)])  # the model keeps its masks
    for mask in model.masks.values():
        if isinstance(pattern, NM):
            assert bool((mask.view(-1, 4).sum(1) == 2).all())
        else:
            assert all(bool(block.all()) or not block.any() for block in rectangles(mask, pattern))
