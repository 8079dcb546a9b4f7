"""Scores that fix how many weights each layer keeps, for criteria that construct the mask of a layer."""

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heapreplace

import torch
from torch import Tensor


def erk_shares(shapes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return numbers to which the kept weights of each layer are proportional under `ERK`: the sums of the sides.

    Example:
        >>> from spl.criteria.layer_counts import erk_shares
        >>> erk_shares({"conv.weight": (8, 3, 5, 5)})
        {'conv.weight': 21.0}
    """
    return {name: float(sum(shape)) for name, shape in shapes.items()}


def weights_per_layer(shares: Mapping[str, float], sizes: Mapping[str, int], keep: int) -> dict[str, int]:
    """Return how many weights each layer keeps if `ranked_scores` are compared over all layers.

    Args:
        shares: positive numbers, by layer.
        sizes: the number of weights of each layer, the most that it keeps.
        keep: the number of weights that all layers keep together. If there are not so many, each layer keeps all.

    Example:
        >>> from spl.criteria.layer_counts import weights_per_layer
        >>> weights_per_layer({"fc1": 1.0, "fc2": 2.0}, {"fc1": 10, "fc2": 4}, keep=9)
        {'fc1': 5, 'fc2': 4}
    """
    keep = min(keep, sum(sizes.values()))

    def counts(scale: float) -> dict[str, int]:
        return {name: min(int(scale * share + 0.5), sizes[name]) for name, share in shares.items()}

    low, high = 0.0, max((sizes[name] + 1) / share for name, share in shares.items())
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle).values()) <= keep else (low, middle)
    found = {name: max(0, count - 1) for name, count in counts(low).items()}  # one less, in case of rounding
    waiting = [((found[n] + 0.5) / share, i, n) for i, (n, share) in enumerate(shares.items()) if found[n] < sizes[n]]
    heapify(waiting)
    for _ in range(keep - sum(found.values())):
        _, i, name = waiting[0]
        found[name] += 1
        if found[name] < sizes[name]:
            heapreplace(waiting, ((found[name] + 0.5) / shares[name], i, name))
        else:
            heappop(waiting)
    return found


def ranked_scores(ranks: Mapping[str, Tensor], shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Return −(i + ½)/s for the weight of rank i = 0, 1, … in a layer with share s, in float64.

    The largest of them over all layers divide the kept weights among the layers in proportion to the shares, by
    Webster's method, and within each layer they are the first.

    Args:
        ranks: the place of each weight in the order in which its layer keeps them, by layer.
        shares: positive numbers, by layer.

    Example:
        >>> import torch
        >>> from spl.criteria.layer_counts import ranked_scores
        >>> ranked_scores({"fc1": torch.tensor([1, 0])}, {"fc1": 0.5})
        {'fc1': tensor([-3., -1.], dtype=torch.float64)}
    """
    return {name: (rank.double() + 0.5).div_(shares[name]).neg_() for name, rank in ranks.items()}


def with_others(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores on the devices of the weights, and for all other parameters (biases) scores below them.

    Example:
        >>> import torch
        >>> from spl.criteria.layer_counts import with_others
        >>> weights = {"fc.weight": torch.ones(1, 2), "fc.bias": torch.ones(1)}
        >>> with_others({"fc.weight": torch.tensor([[-1.0, -3.0]])}, weights)["fc.bias"]
        tensor([-4.], dtype=torch.float64)
    """
    lowest = min((float(score.min()) for score in scores.values()), default=0.0) - 1.0
    return {
        name: scores[name].to(w.device)
        if name in scores
        else torch.full(w.shape, lowest, dtype=torch.float64, device=w.device)
        for name, w in weights.items()
    }


def ranks_of(order: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the place of each entry in an order of all entries, in `shape`.

    Example:
        >>> import torch
        >>> from spl.criteria.layer_counts import ranks_of
        >>> ranks_of(torch.tensor([2, 0, 1]), (3,))
        tensor([1, 2, 0])
    """
    ranks = torch.empty(math.prod(shape), dtype=torch.long)
    ranks[order] = torch.arange(len(order))
    return ranks.view(*shape)


def order_by(*keys: Tensor) -> Tensor:
    """Return the places of the entries in ascending order by the first key, equal ones by the second, and so on.

    Example:
        >>> import torch
        >>> from spl.criteria.layer_counts import order_by
        >>> order_by(torch.tensor([1, 0, 1]), torch.tensor([5, 9, 4]))
        tensor([1, 2, 0])
    """
    order = torch.arange(keys[0].numel())
    for key in reversed(keys):
        order = order[key.flatten()[order].argsort(stable=True)]
    return order
