"""Processes that score a network together."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError

T = TypeVar("T")


class Processes:
    """The processes that score a network together, each on its share of the batches; here there is only one.

    Batch k belongs to process k mod `size`. Each process adds up what its own batches give, and `add_up_` adds up the
    sums of all processes, so that all of them find the scores of one.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
    """

    rank = 0
    size = 1

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of this process, with a progress bar when that takes longer than a second.

        Raises:
            InputError: this is the first process, and `loader` has no batches.
        """
        batch = None
        for batch in tqdm(self.own(loader), desc="Scoring", unit="batch", delay=1, leave=False, disable=None):
            yield batch
        if batch is None and self.rank == 0:
            raise InputError("The scoring data has no batches: give at least one.")

    def own(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return the batches `rank`, `rank + size`, … of `loader`."""
        return loader if self.size == 1 else islice(loader, self.rank, None, self.size)

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""

    def together(self) -> AbstractContextManager[None]:
        """Let all processes fail where one of them does."""
        return nullcontext()

    def from_first(self, value: T) -> T:
        """Return the value that the first process gives."""
        return value
