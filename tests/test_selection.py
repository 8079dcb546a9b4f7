"""The k largest of all scores: exactly, of equal ones the earliest, in little memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spl.errors import InputError
from spl.selection import top_k


@st.composite
def score_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """One to four layers of few distinct values, zero and negative ones too, so that ties abound."""
    shapes = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
    scores = {}
    for i, shape in enumerate(shapes):
        size = int(torch.tensor(shape).prod())
        values = draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=size, max_size=size))
        scores[f"fc{i}"] = torch.tensor(values).view(shape)
    return scores


def flat(tensors) -> list:
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).tolist()


@given(score_dicts(), st.data())
def test_top_k_keeps_the_largest_and_of_equal_ones_the_earliest(scores, data):
    values = flat(scores)
    keep = data.draw(st.integers(0, len(values)))
    masks = top_k(scores, keep)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert masks.kept == keep
    assert {i for i, kept in enumerate(flat(masks)) if kept} == set(order[:keep])
    assert {name: mask.shape for name, mask in masks.items()} == {name: s.shape for name, s in scores.items()}


@given(score_dicts(), st.data())
def test_masks_of_fewer_weights_are_contained_in_those_of_more(scores, data):
    fewer, more = sorted(data.draw(st.tuples(*[st.integers(0, len(flat(scores)))] * 2)))
    small, large = top_k(scores, fewer), top_k(scores, more)
    assert all(not (small[name] & ~large[name]).any() for name in scores)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("keep", [0, 1, 5, 9, 10])
def test_equal_scores_keep_the_first(value, keep):
    masks = top_k({"fc1": torch.full((2, 3), value), "fc2": torch.full((4,), value)}, keep)
    assert flat(masks) == [True] * keep + [False] * (10 - keep)


def test_where_nine_tenths_of_the_scores_are_zero_half_are_kept_when_half_are_asked_for():
    scores = torch.zeros(100)
    scores[90:] = torch.arange(1.0, 11.0)
    kept = top_k({"fc1": scores}, 50)["fc1"]
    assert kept.nonzero().flatten().tolist() == [*range(40), *range(90, 100)]


def test_scores_are_compared_across_layers():
    masks = top_k({"fc1": torch.tensor([[1.0, 5.0], [2.0, 3.0]]), "fc2": torch.tensor([4.0, 0.0])}, 3)
    assert masks["fc1"].tolist() == [[False, True], [False, True]]
    assert masks["fc2"].tolist() == [True, False]


def test_each_mask_has_memory_of_its_own_so_that_a_checkpoint_holds_it_once():
    masks = top_k({"fc1": torch.ones(2), "fc2": torch.ones(1, 3)}, 4)
    assert [mask.untyped_storage().nbytes() for mask in masks.values()] == [2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_layer(bad):
    scores = {"fc1.weight": torch.ones(3), "fc2.weight": torch.tensor([bad, 1.0, bad, 0.0])}
    with pytest.raises(InputError, match=r"^fc2\.weight: 2 of 4 saliency .* Check the initialization"):
        top_k(scores, 1)


@pytest.mark.parametrize("keep", [-1, 4])
def test_top_k_refuses_a_count_out_of_range(keep):
    with pytest.raises(ValueError, match=rf"keep must lie in \[0, 3\], got {keep}"):
        top_k({"fc1": torch.ones(3)}, keep)
