"""Processes that score together, each the batches that are dealt to it."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from torch import Tensor


class Processes:
    """Among whom batches are dealt, batch k to process k mod `size`, and over whom sums are taken: one alone.

    Attributes:
        rank: which of them this is, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""


def dealt(batches: Iterable[Any], rank: int, size: int) -> Iterable[Any]:
    """Batches rank, rank + size, …; by their own method `dealt`, which need not fetch the others, if they have one."""
    if size == 1:
        return batches
    if method := getattr(batches, "dealt", None):
        share: Iterable[Any] = method(rank, size)
        return share
    return islice(batches, rank, None, size)
