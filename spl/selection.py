"""Selection: the k largest of many scores, exactly, without sorting them and without joining them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, reduce

import torch
from torch import Tensor

from spl.errors import InputError
from spl.masks import Masks

_CHUNK = 2**18  # scores that are looked at together: they stay in the cache
_SAMPLE = 2**16  # scores that bracket the threshold
_CANDIDATES = 2**20  # scores in the bracket that may be gathered, or a 32nd of all, whichever is more


def top_k(scores: Mapping[str, Tensor], keep: int, among: Masks | None = None) -> Masks:
    """Keep exactly the `keep` largest of all scores together.

    The k-th value is found by selection, after Floyd and Rivest (1975): a sample brackets it, a pass over the scores
    counts what lies above and gathers what lies inside, and where the bracket misses it is moved. A mere comparison
    with a threshold would not do: `score >= threshold` keeps too many of equal scores and `>` too few. Among equal
    scores the earlier one wins, in the order of the mapping and then of the flattened tensor, so the result is the
    same on every device, and the masks of a smaller `keep` are contained in those of a larger one. Scores go to the
    CPU chunk by chunk; beside the masks, a fraction of their memory is taken.

    Args:
        scores: one floating-point tensor of any shape per parameter name; a larger score is kept first.
        keep: how many scores to keep, from 0 to their number.
        among: the scores to choose from; all without one.

    Returns:
        Masks on the CPU.

    Raises:
        InputError: a score is NaN or infinite; the message names the layer.
        ValueError: `keep` is out of range.
    """
    check_finite(scores)
    size = sum(score.numel() for score in scores.values()) if among is None else among.kept
    if not 0 <= keep <= size:
        raise ValueError(f"keep must lie in [0, {size}], got {keep}")
    if keep == 0:
        return Masks({name: torch.zeros(score.shape, dtype=torch.bool) for name, score in scores.items()})
    dtype = reduce(torch.promote_types, (score.dtype for score in scores.values()))
    threshold, greater = _kth_largest(partial(_alive, scores, among, dtype), size, keep)
    ties = keep - greater
    masks = {}
    for name, score in scores.items():
        mask = torch.empty(score.numel(), dtype=torch.bool)
        for place, chunk, alive in _chunks(score, None if among is None else among[name], dtype):
            kept = chunk > threshold
            tied = chunk == threshold
            if alive is not None:
                kept &= alive
                tied &= alive
            if ties and (count := int(tied.count_nonzero())):
                tied[tied.nonzero().flatten()[ties:]] = False
                kept |= tied
                ties -= min(ties, count)
            mask[place : place + len(kept)] = kept
        masks[name] = mask.view(score.shape)
    return Masks(masks)


def check_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise an `InputError` that names the first layer with a NaN or infinite score."""
    for name, score in scores.items():
        if score.numel() and not all(bool(extreme.isfinite()) for extreme in score.detach().aminmax()):
            raise InputError(
                f"{name}: {int((~score.isfinite()).sum())} of {score.numel()} saliency scores are NaN or infinite. "
                "Check the initialization (too large a variance overflows) and the scoring data."
            )


def ranks_of_largest(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """How many scores `top_k` keeps before the first one of each layer.

    Every score is compared with the largest of each layer in one pass. Scores of the lowest value of their type
    are those of `lowered`, and are not counted.
    """
    dtype = reduce(torch.promote_types, (score.dtype for score in scores.values()))
    largest = torch.stack([score.detach().max().to("cpu", dtype) for score in scores.values()])
    marks, places = torch.unique(largest, return_inverse=True)  # ascending
    greater, equal = torch.zeros(len(marks), dtype=torch.int64), torch.zeros(len(marks), dtype=torch.int64)
    ties = []
    for place, score in zip(places, scores.values(), strict=True):
        ties.append(int(equal[place]))
        for _, chunk, _ in _chunks(score, None, dtype):
            high = chunk[(chunk >= marks[0]) & (chunk > torch.finfo(score.dtype).min)]
            above = _at_least(torch.searchsorted(marks, high), len(marks))
            greater += above
            equal += _at_least(torch.searchsorted(marks, high, right=True), len(marks)) - above
    return {name: int(greater[p]) + t for name, p, t in zip(scores, places, ties, strict=True)}


def lowered(scores: Mapping[str, Tensor], alive: Masks | None) -> dict[str, Tensor]:
    """The scores, those that are not `alive` below all others: the lowest value of their type."""
    if alive is None:
        return dict(scores)
    return {
        name: score.masked_fill(~alive[name].to(score.device), torch.finfo(score.dtype).min)
        for name, score in scores.items()
    }


def _at_least(numbers: Tensor, size: int) -> Tensor:
    """How many of `numbers`, each in [0, size], are greater than 0, 1, …, size − 1."""
    return torch.bincount(numbers, minlength=size + 1).flip(0).cumsum(0).flip(0)[1:]


def _chunks(score: Tensor, among: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """The flattened scores piece by piece on the CPU: where a piece begins, the piece, and what of it is alive."""
    flat = score.detach().flatten()
    alive = None if among is None else among.flatten()
    for i in range(0, flat.numel(), _CHUNK):
        yield i, flat[i : i + _CHUNK].to("cpu", dtype), None if alive is None else alive[i : i + _CHUNK].cpu()


def _alive(scores: Mapping[str, Tensor], among: Masks | None, dtype: torch.dtype) -> Iterator[Tensor]:
    """The scores to choose from, piece by piece."""
    for name, score in scores.items():
        for _, chunk, alive in _chunks(score, None if among is None else among[name], dtype):
            yield chunk if alive is None else chunk[alive]


def _kth_largest(values: Callable[[], Iterable[Tensor]], size: int, k: int) -> tuple[float, int]:
    """The k-th largest of `size` values, and how many are greater.

    `low` and `high` are values, at first infinite, between which it lies; a pass of `values` narrows them to two of a
    sample, or finds it to be one of these. Each pass leaves fewer between, so it ends whatever the distribution.
    """
    low, high = -math.inf, math.inf
    above, between = 0, size  # how many are at least `high`, and how many lie strictly between
    generator = torch.Generator().manual_seed(0)
    while between > max(_CANDIDATES, size // 32):
        sample = _sample(values, low, high, _SAMPLE / between, generator)
        expected = len(sample) * (k - above) / between
        margin = 4 * math.sqrt(expected * max(0.0, 1 - expected / len(sample))) + 1
        upper, lower = (
            float(sample[min(max(int(place), 0), len(sample) - 1)]) for place in (expected - margin, expected + margin)
        )
        counts = [0, 0, 0, 0]
        for chunk in values():
            rest = chunk[chunk >= lower]
            counts[3] += len(rest)
            for i, inside in enumerate((rest > upper, rest >= upper, rest > lower)):
                counts[i] += int(inside.count_nonzero())
        if k <= counts[0]:
            low, between = upper, counts[0] - above
        elif k <= counts[1]:
            return upper, counts[0]
        elif k <= counts[2]:
            low, high, above, between = lower, upper, counts[1], counts[2] - counts[1]
        elif k <= counts[3]:
            return lower, counts[2]
        else:
            high, between, above = lower, above + between - counts[3], counts[3]
    candidates = torch.cat([_between(chunk, low, high) for chunk in values()])
    threshold = candidates.kthvalue(len(candidates) - (k - above) + 1).values
    return threshold.item(), above + int((candidates > threshold).count_nonzero())


def _sample(
    values: Callable[[], Iterable[Tensor]], low: float, high: float, share: float, generator: torch.Generator
) -> Tensor:
    """A random `share` of the values strictly between, in descending order."""
    drawn = []
    for chunk in values():
        inside = _between(chunk, low, high)
        if len(inside):
            drawn.append(inside[torch.randint(len(inside), (math.ceil(share * len(inside)),), generator=generator)])
    return torch.cat(drawn).sort(descending=True).values


def _between(values: Tensor, low: float, high: float) -> Tensor:
    if low > -math.inf:
        values = values[values > low]
    return values[values < high] if high < math.inf else values
