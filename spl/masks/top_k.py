"""Exact selection of the k largest of many scores, without sorting them or joining large ones."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, reduce

import torch
from torch import Tensor

from spl.errors import InputError
from spl.masks.masks import Masks

_FEW = 2**20  # scores that may be joined into one tensor
_CHUNK = 2**18  # scores that are compared together, so that they stay in the cache
_CANDIDATES = 2**16  # scores in the bracket that may be gathered, or a 16th of all, whichever is more


def top_k(scores: Mapping[str, Tensor], keep: int, among: Masks | None = None) -> Masks:
    """Return the masks that keep exactly the `keep` largest of all scores together.

    The k-th largest value is found by selection, after Floyd and Rivest (1975): a sample of n^⅔ scores brackets it,
    and a pass over all scores counts those above and inside the bracket. If the bracket misses the value, or is still
    too wide to gather what is inside, it is narrowed. A comparison with a threshold alone is not exact: of equal
    scores, `score >= threshold` keeps too many and `>` too few. Here the earlier of two equal scores wins, in the order
    of the mapping and then of the flattened tensor. So the result is the same on every device, and the masks for a
    smaller `keep` are contained in those for a larger one. Scores go to the CPU piece by piece; apart from the masks,
    this takes a fraction of their memory.

    Args:
        scores: one floating-point tensor of any shape per parameter name; a larger score is kept first.
        keep: how many scores to keep, from 0 to the number of all.
        among: masks of the scores to choose from; None for all.

    Returns:
        Masks on the CPU.

    Raises:
        InputError: a score is NaN or infinite; the message names the layer.
        ValueError: `keep` is out of range.

    Example:
        >>> import torch
        >>> from spl.masks.top_k import top_k
        >>> scores = {"0.weight": torch.tensor([0.1, 0.9]), "2.weight": torch.tensor([0.9, 0.2])}
        >>> {name: mask.tolist() for name, mask in top_k(scores, keep=1).items()}
        {'0.weight': [False, True], '2.weight': [False, False]}
    """
    check_finite(scores)
    size = sum(score.numel() for score in scores.values()) if among is None else among.kept
    if not 0 <= keep <= size:
        raise ValueError(f"keep must lie in [0, {size}], got {keep}")
    if keep == 0:
        return Masks({name: torch.zeros(score.shape, dtype=torch.bool) for name, score in scores.items()})
    sizes = [score.numel() for score in scores.values()]
    if len(scores) == 1 or sum(sizes) > _FEW:
        return Masks(_largest(scores, keep, size, among))
    # joined, many small layers take no longer than one large layer; they may lie on several devices
    flat = {"": torch.cat([score.detach().flatten().cpu() for score in scores.values()])}
    alive = None if among is None else Masks({"": torch.cat([among[name].flatten() for name in scores])})
    parts = torch.split(_largest(flat, keep, size, alive)[""], sizes)
    return Masks({name: part.view(s.shape).clone() for (name, s), part in zip(scores.items(), parts, strict=True)})


def check_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise an `InputError` that names the first layer with a NaN or infinite score.

    Example:
        >>> import torch
        >>> from spl.masks.top_k import check_finite
        >>> check_finite({"fc.weight": torch.tensor([1.0, float("nan")])})
        Traceback (most recent call last):
            ...
        spl.errors.InputError: fc.weight: 1 of 2 saliency scores are NaN or infinite...
    """
    for name, score in scores.items():
        if score.numel() and not all(math.isfinite(extreme.item()) for extreme in score.detach().aminmax()):
            raise InputError(
                f"{name}: {int((~score.isfinite()).sum())} of {score.numel()} saliency scores are NaN or infinite. "
                "Check the initialization (too large a variance overflows) and the scoring data."
            )


def ranks_of_largest(scores: Mapping[str, Tensor]) -> dict[str, int]:
    """Return for each layer how many scores of all layers `top_k` keeps before the first one of this layer.

    One pass compares every score with the largest of each layer. Scores that equal the lowest value of their type come
    from `lowered`, and are not counted.

    Example:
        >>> import torch
        >>> from spl.masks.top_k import ranks_of_largest
        >>> ranks_of_largest({"0.weight": torch.tensor([3.0, 4.0]), "2.weight": torch.tensor([1.0, 2.0])})
        {'0.weight': 0, '2.weight': 2}
    """
    dtype = reduce(torch.promote_types, (score.dtype for score in scores.values()))
    largest = torch.stack([score.detach().max().to("cpu", dtype) for score in scores.values()])
    marks, places = torch.unique(largest, return_inverse=True)  # ascending
    greater, equal = torch.zeros(len(marks), dtype=torch.int64), torch.zeros(len(marks), dtype=torch.int64)
    ties = []
    for (name, score), place in zip(scores.items(), places, strict=True):
        ties.append(int(equal[place]))
        for chunk, _ in _pieces({name: score}, None, dtype):
            high = chunk[(chunk >= marks[0]) & (chunk > torch.finfo(score.dtype).min)]
            above = _at_least(torch.searchsorted(marks, high), len(marks))
            greater += above
            equal += _at_least(torch.searchsorted(marks, high, right=True), len(marks)) - above
    return {name: int(greater[p]) + t for name, p, t in zip(scores, places, ties, strict=True)}


def lowered(scores: Mapping[str, Tensor], alive: Masks | None) -> dict[str, Tensor]:
    """Return the scores, with those that are not `alive` set to the lowest value of their type, below all others.

    Example:
        >>> import torch
        >>> from spl.masks import Masks
        >>> from spl.masks.top_k import lowered
        >>> lowered({"fc.weight": torch.tensor([1.0, 2.0])}, Masks({"fc.weight": torch.tensor([True, False])}))
        {'fc.weight': tensor([ 1.0000e+00, -3.4028e+38])}
    """
    if alive is None:
        return dict(scores)
    return {
        name: score.masked_fill(~alive[name].to(score.device), torch.finfo(score.dtype).min)
        for name, score in scores.items()
    }


def _at_least(numbers: Tensor, size: int) -> Tensor:
    """Count how many of `numbers`, each in [0, size], are greater than 0, 1, …, size − 1."""
    return torch.bincount(numbers, minlength=size + 1).flip(0).cumsum(0).flip(0)[1:]


def _largest(scores: Mapping[str, Tensor], keep: int, size: int, among: Masks | None) -> dict[str, Tensor]:
    """Return the masks of the `keep` largest of the `size` scores that are alive."""
    dtype = reduce(torch.promote_types, (score.dtype for score in scores.values()))  # represents all exactly
    threshold, greater = _kth_largest(partial(_pieces, scores, among, dtype), size, keep)
    ties = keep - greater
    masks = {}
    for name, score in scores.items():
        mask = torch.empty(score.numel(), dtype=torch.bool)
        for kept, (chunk, alive) in zip(_cut(mask), _pieces({name: score}, among, dtype), strict=True):
            _and(torch.gt(chunk, threshold, out=kept), alive)
            if ties:
                tied = _and(chunk == threshold, alive).nonzero().flatten()[:ties]
                kept[tied] = True
                ties -= len(tied)
        masks[name] = mask.view(score.shape)
    return masks


def _pieces(
    scores: Mapping[str, Tensor], among: Masks | None, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the flattened scores piece by piece on the CPU, each with the mask of those alive, or None for all."""
    for name, score in scores.items():
        chunks = _cut(score.detach().flatten())
        alive = [None] * len(chunks) if among is None else _cut(among[name].flatten())
        for chunk, living in zip(chunks, alive, strict=True):
            yield chunk.to("cpu", dtype), None if living is None else living.cpu()


def _cut(flat: Tensor) -> tuple[Tensor, ...]:
    return torch.split(flat, _CHUNK)


_Pieces = Callable[[], Iterable[tuple[Tensor, Tensor | None]]]


def _kth_largest(pieces: _Pieces, size: int, k: int) -> tuple[float, int]:
    """Return the k-th largest of the `size` values that are alive, and how many are greater.

    It lies between `low` and `high`, which are infinite at first. A pass over all values narrows these to two values
    of a sample, or finds that it is one of the two, or, if few enough lie between them, finds it among those. Each pass
    leaves fewer values between, so the search ends for any distribution.
    """
    low, high = -math.inf, math.inf
    above, between = 0, size  # the number of values that are at least `high`, and of those strictly between
    most = max(_CANDIDATES, size // 16)
    generator = torch.Generator().manual_seed(0)
    while between > most and len(sample := _sample(pieces, low, high, between ** (-1 / 3), generator)):
        expected = len(sample) * (k - above) / between
        margin = 4 * math.sqrt(expected * max(0.0, 1 - expected / len(sample))) + 1
        upper, lower = (
            float(sample[min(max(int(place), 0), len(sample) - 1)]) for place in (expected - margin, expected + margin)
        )
        counts, inside = _compared(pieces, upper, lower, most)
        if inside is not None and counts[0] < k <= counts[3]:
            return _kth(inside, k, counts[0])
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
    return _kth(torch.cat([_between(chunk, alive, low, high) for chunk, alive in pieces()]), k, above)


def _kth(candidates: Tensor, k: int, above: int) -> tuple[float, int]:
    """Return the k-th largest of all values, `above` of which exceed all candidates; and how many are greater."""
    threshold = candidates.kthvalue(len(candidates) - (k - above) + 1).values
    return threshold.item(), above + int((candidates > threshold).count_nonzero())


def _compared(
    pieces: _Pieces, upper: float, lower: float, most: int
) -> tuple[tuple[int, int, int, int], Tensor | None]:
    """Count the values > upper, ≥ upper, > lower, ≥ lower; gather those from lower to upper if at most `most`.

    While they are few, values are gathered first and counted afterwards, which saves one comparison for each value.
    """
    over, gathered, few = 0, [], 0
    for chunk, alive in pieces():
        greater = chunk > upper
        inside = (chunk >= lower).logical_xor_(greater)
        over += int(_and(greater, alive).count_nonzero())
        gathered.append(chunk[_and(inside, alive)])
        few += len(gathered[-1])
        if few > most:
            break
    else:
        inside = torch.cat(gathered)
        ties = [int((inside == bound).count_nonzero()) for bound in (upper, lower)]
        return (over, over + ties[0], over + few - ties[1], over + few), inside
    counts = [0, 0, 0, 0]
    for chunk, alive in pieces():
        for i, part in enumerate((chunk > upper, chunk >= upper, chunk > lower, chunk >= lower)):
            counts[i] += int(_and(part, alive).count_nonzero())
    return (counts[0], counts[1], counts[2], counts[3]), None


def _sample(
    pieces: _Pieces,
    low: float,
    high: float,
    share: float,
    generator: torch.Generator,
) -> Tensor:
    """Return a random `share` of the values strictly between `low` and `high`, in descending order."""
    drawn = []
    for chunk, alive in pieces():
        places = torch.randint(len(chunk) or 1, (math.ceil(share * len(chunk)),), generator=generator)
        drawn.append(_between(chunk[places], None if alive is None else alive[places], low, high))
    return torch.cat(drawn).sort(descending=True).values


def _between(chunk: Tensor, alive: Tensor | None, low: float, high: float) -> Tensor:
    """Return the values that are alive and lie strictly between `low` and `high`."""
    if (low, high) == (-math.inf, math.inf):
        return chunk if alive is None else chunk[alive]
    inside = chunk > low
    inside &= chunk < high
    return chunk[_and(inside, alive)]


def _and(mask: Tensor, alive: Tensor | None) -> Tensor:
    """Clear the entries of `mask` that are not alive, in place, and return it."""
    return mask if alive is None else mask.logical_and_(alive)
