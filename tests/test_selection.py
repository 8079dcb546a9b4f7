"""Selection of the k largest scores: exact, the earliest among ties, in little memory."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory import PeakMemory
from torch import Tensor

from spl.errors import InputError
from spl.masks.masks import Masks
from spl.masks.top_k import lowered, ranks_of_largest, top_k

KINDS = {
    "normal": torch.randn,
    "equal": lambda n: torch.full((n,), 2.5),
    "mostly zero": lambda n: (torch.rand(n) - 0.9).relu(),
    "huge range": lambda n: torch.randn(n, dtype=torch.float64).mul(100).exp(),
    "subnormal": lambda n: torch.randint(-9, 50, (n,)) * 1e-45,
    "bfloat16": lambda n: torch.randn(n).bfloat16(),
    "few values": lambda n: torch.randint(-2, 3, (n,)).float(),
    "ascending": lambda n: torch.arange(float(n)),
    "descending": lambda n: -torch.arange(float(n)),
    "periodic": lambda n: (torch.arange(n) % 7).double(),
    "one high": lambda n: torch.eye(n)[n // 2],
}


@st.composite
def score_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw one to four layers with few distinct values, also zero and negative, so that ties are frequent."""
    shapes = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
    scores = {}
    for i, shape in enumerate(shapes):
        size = int(torch.tensor(shape).prod())
        values = draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=size, max_size=size))
        scores[f"fc{i}"] = torch.tensor(values).view(shape)
    return scores


def flat(tensors) -> list:
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).tolist()


def masks_of(**bits: list) -> Masks:
    return Masks({name: torch.tensor(value, dtype=torch.bool) for name, value in bits.items()})


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


def small_pieces():
    """Make samples and pieces tiny, so that few scores behave like many and the bracket often misses."""
    return patch.multiple("spl.masks.top_k", _CHUNK=50, _CANDIDATES=8)


def ranked(scores: dict[str, Tensor], alive: list[bool]) -> list[int]:
    """Return the positions of all alive scores, the largest first."""
    values = flat({name: s.double() for name, s in scores.items()})
    return sorted((i for i in range(len(values)) if alive[i]), key=lambda i: (-values[i], i))


@given(
    st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(1, 400)), min_size=1, max_size=3),
    st.none() | st.floats(0, 1),
    st.integers(0, 10**6),
    st.data(),
)
def test_any_distribution_of_any_type_is_selected_exactly_among_what_is_alive(kinds, density, seed, data):
    torch.manual_seed(seed)
    scores = {f"fc{i}": KINDS[kind](size) for i, (kind, size) in enumerate(kinds)}
    among = None if density is None else Masks({n: torch.rand(s.shape) < density for n, s in scores.items()})
    order = ranked(scores, [True] * len(flat(scores)) if among is None else flat(among))
    keep = data.draw(st.integers(0, len(order)))
    with small_pieces():
        masks = top_k(scores, keep, among)
    assert [i for i, kept in enumerate(flat(masks)) if kept] == sorted(order[:keep])


@given(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4), st.integers(1, 99), st.integers(0, 10**6))
def test_the_rank_of_the_largest_of_each_layer_is_its_place_among_all(kinds, size, seed):
    torch.manual_seed(seed)
    scores = {f"fc{i}": KINDS[kind](size) for i, kind in enumerate(kinds)}
    order = ranked(scores, [True] * size * len(kinds))
    with small_pieces():
        ranks = ranks_of_largest(scores)
    assert list(ranks.values()) == [
        min(order.index(j) for j in range(i * size, (i + 1) * size)) for i in range(len(kinds))
    ]


def test_a_layer_that_is_dead_already_ranks_behind_all_that_are_alive():
    scores = {"fc1": torch.zeros(3), "fc2": torch.tensor([-1.0, 2.0, 5.0]), "fc3": torch.ones(2)}
    alive = masks_of(fc1=[0, 0, 0], fc2=[1, 1, 0], fc3=[0, 0])
    assert lowered(scores, alive)["fc2"].tolist() == [-1.0, 2.0, torch.finfo(torch.float32).min]
    assert ranks_of_largest(lowered(scores, alive)) == {"fc1": 2, "fc2": 0, "fc3": 2}


@pytest.mark.parametrize("kind", ["normal", "mostly zero", "equal", "bfloat16"])
def test_selection_takes_far_less_memory_than_one_and_a_half_times_the_scores(kind):
    scores = {"fc1": KINDS[kind](6_000_000), "fc2": KINDS[kind](2_000_000)}
    bytes_of_scores = sum(s.nbytes for s in scores.values())
    with PeakMemory() as memory:
        masks = top_k(scores, 800_000)
        later = top_k(scores, 400_000, masks)
    assert (masks.kept, later.kept) == (800_000, 400_000)
    assert memory.peak <= 1.5 * bytes_of_scores
    assert memory.peak - 2 * masks.size <= 0.7 * bytes_of_scores  # besides the masks
