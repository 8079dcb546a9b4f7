"""Scopes: how many weights each layer keeps, checked by hand."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spl.errors import InputError
from spl.pruning import select
from spl.pruning.apportionment import apportion, seats_before_first
from spl.pruning.scopes import ERK, GivenDensities, Global, SmartRatio, Uniform

LAYERS = {"conv.weight": (4, 2, 3, 3), "fc1.weight": (10, 10), "fc1.bias": (10,), "fc2.weight": (2, 10)}
SIZE = 72 + 100 + 10 + 20
SCOPES = [Global(), Uniform(), ERK(), SmartRatio(), GivenDensities({"fc1.*": 0.25, "conv.weight": 0.5})]


def scores_of(**shapes) -> dict[str, torch.Tensor]:
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def kept(scores, number, scope, **options) -> list[int]:
    size = sum(s.numel() for s in scores.values())
    return [int(mask.sum()) for mask in select(scores, 1 - number / size, scope=scope, **options).values()]


@given(
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 7.25]), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=5, max_size=5),
    st.data(),
)
def test_seats_go_to_the_lowest_priorities_of_equal_ones_to_the_earlier_party(shares, bounds, data):
    shares = {str(i): share for i, share in enumerate(shares)}
    least = {name: bounds[i][0] for i, name in enumerate(shares)}
    most = {name: sum(bounds[i]) for i, name in enumerate(shares)}
    total = data.draw(st.integers(sum(least.values()), sum(most.values())))
    order = sorted(
        (((i + 0.5) / share, p, name) for p, (name, share) in enumerate(shares.items())
         for i in range(least[name], most[name]))
    )  # fmt: skip
    given_out = [name for _, _, name in order[: total - sum(least.values())]]
    expected = {name: least[name] + given_out.count(name) for name in shares}
    assert apportion(shares, total, least, most) == expected
    for name, ahead in seats_before_first(shares, least, most).items():
        if least[name] == 0 < most[name]:
            assert apportion(shares, ahead, least, most)[name] == 0
            assert apportion(shares, ahead + 1, least, most)[name] == 1


@given(st.sampled_from(SCOPES), st.integers(60, 202), st.integers(0, 3))
def test_totals_are_exact(scope, number, minimum):
    assume(not isinstance(scope, GivenDensities) or 36 + 25 + 2 + minimum <= number <= 36 + 25 + 2 + 20)
    scores = scores_of(**LAYERS)
    if isinstance(scope, GivenDensities):
        minimum = min(minimum, 2)  # the size of fc1.bias
    numbers = kept(scores, number, scope, minimum=minimum)
    assert sum(numbers) == number
    assert min(numbers) >= minimum


@given(st.sampled_from(SCOPES[:-1]), st.tuples(st.integers(12, 202), st.integers(12, 202)), st.integers(0, 1))
def test_masks_of_fewer_weights_are_contained_in_those_of_more(scope, numbers, minimum):
    scores = scores_of(**LAYERS)
    small, large = (select(scores, 1 - n / SIZE, scope=scope, minimum=minimum) for n in sorted(numbers))
    assert all(not (small[name] & ~large[name]).any() for name in scores)


@pytest.mark.parametrize("scope", SCOPES[1:])
def test_each_layer_keeps_its_largest_scores(scope):
    scores = scores_of(**LAYERS)
    for name, mask in select(scores, 1 - 75 / SIZE, scope=scope).items():
        order = scores[name].flatten().argsort(descending=True)
        assert mask.flatten()[order].tolist() == sorted(mask.flatten().tolist(), reverse=True)


@pytest.mark.parametrize("scope", SCOPES[:-1])
def test_sparsity_zero_keeps_everything(scope):
    assert select(scores_of(**LAYERS), 0.0, scope=scope).kept == SIZE


def test_erk_by_hand():
    scores = scores_of(fc1=(10, 10), fc2=(2, 10))  # (10 + 10)/100 and (2 + 10)/20: 20 and 12 weights in proportion
    assert kept(scores, 16, ERK()) == [10, 6]
    assert kept(scores, 28, ERK()) == [18, 10]  # 17.5 and 10.5: the earlier layer is rounded up
    assert kept(scores, 60, ERK()) == [40, 20]  # 37.5 and 22.5, but fc2 has only 20


def test_erk_counts_the_sides_of_a_kernel_and_leaves_biases_dense():
    scores = scores_of(conv=(4, 2, 3, 3), fc=(4, 5), bias=(3,))  # 12/72, 9/20, 3/3: weights as 12 to 9 to 3
    assert kept(scores, 8, ERK()) == [4, 3, 1]
    assert kept(scores, 24, ERK()) == [12, 9, 3]
    assert kept(scores, 52, ERK()) == [29, 20, 3]


def test_smart_ratio_by_hand():
    scores = scores_of(fc1=(10, 10), fc2=(10, 10), fc3=(2, 5))  # weights as 12 to 6, and 3 in the last layer
    assert kept(scores, 93, SmartRatio()) == [60, 30, 3]
    assert kept(scores, 183, SmartRatio()) == [100, 80, 3]
    assert kept(scores, 205, SmartRatio()) == [100, 100, 5]
    assert kept(scores, 98, SmartRatio(last=0.8)) == [60, 30, 8]


def test_smart_ratio_gives_a_bias_the_depth_of_its_weight():
    scores = scores_of(fc1=(10, 10), fc1_bias=(10,), fc2=(10, 11), fc3=(2, 5), fc3_bias=(10,))
    assert kept(scores, 6 + 99, SmartRatio()) == [60, 6, 33, 3, 3]


def test_smart_ratio_gives_a_bias_before_any_weight_the_depth_of_the_first():
    scores = scores_of(bias=(10,), fc1=(10, 10), fc2=(10, 10), fc3=(2, 5))
    assert kept(scores, 6 + 60 + 30 + 3, SmartRatio()) == [6, 60, 30, 3]


def test_given_densities_hold_and_the_others_share_the_rest():
    scores = scores_of(**{"fc1.weight": (10, 10), "fc2.weight": (5, 10), "fc3.weight": (3, 10), "fc3.bias": (10,)})
    scope = GivenDensities({"fc1.*": 0.1, "*.bias": 1.0, "fc*.weight": 0.5})
    assert kept(scores, 10 + 25 + 15 + 10, scope) == [10, 25, 15, 10]
    assert kept(scores, 10 + 40 + 10, GivenDensities({"fc1.*": 0.1, "*.bias": 1.0})) == [10, 25, 15, 10]
    assert kept(scores, 30, GivenDensities({"fc1.*": 0})) == [0, 17, 10, 3]  # 16.7, 10, 3.3


def test_a_pattern_of_densities_that_matches_nothing_is_an_error():
    with pytest.raises(InputError, match=r"densities: 'fc9\.\*' matches none of the parameters fc1, fc2\."):
        kept(scores_of(fc1=(2, 2), fc2=(2, 2)), 3, GivenDensities({"fc1": 0.5, "fc9.*": 0.1}))


def test_a_density_out_of_range_is_an_error():
    with pytest.raises(InputError, match=r"'fc1' must have a density in \[0, 1\], got 90: 0\.1 is sparsity 0\.9"):
        GivenDensities({"fc1": 90})


@pytest.mark.parametrize("last", [0.0, 1.5])
def test_a_density_of_the_last_layer_out_of_range_is_an_error(last):
    with pytest.raises(InputError, match=rf"last must lie in \(0, 1\], got {last}"):
        SmartRatio(last)


def test_densities_that_the_total_cannot_meet_say_which_sparsity_they_imply():
    scores = scores_of(fc1=(10, 10), fc2=(10, 10))
    scope = GivenDensities({"fc1": 0.5})
    assert kept(scores, 50, scope) == [50, 0]
    assert kept(scores, 150, scope) == [50, 100]
    match = r"49 of 200 weights .* scope GivenDensities, .* keep at least 50: ask for a sparsity of at most 0\.75\."
    with pytest.raises(InputError, match=match):
        kept(scores, 49, scope)
    with pytest.raises(InputError, match=r"151 of 200 .* keep at most 150: ask for a sparsity of at least 0\.25\."):
        kept(scores, 151, scope)
    with pytest.raises(InputError, match=r"keep at most 30: ask for a sparsity of at least 0\.85\."):
        kept(scores, 60, GivenDensities({"fc1": 0.2, "fc2": 0.1}))


def test_a_density_below_the_minimum_is_an_error():
    match = r"fc1: density 0\.1 keeps 1 of 10, but pattern or minimum keep 3 at least: raise the density"
    with pytest.raises(InputError, match=match):
        kept(scores_of(fc1=(2, 5), fc2=(2, 5)), 10, GivenDensities({"fc1": 0.1}), minimum=3)
