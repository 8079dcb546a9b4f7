"""A loader dealt to processes: every n-th batch, the same whoever fetches it, and the others not fetched."""

import random
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, TypeGuard

import numpy as np
import torch
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

_OPTIONS = (
    "num_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "worker_init_fn",
    "timeout",
    "collate_fn",
    "pin_memory",
)
_END = object()


def deal(loader: Iterable[Any], rank: int, size: int, limit: int | None, seed: int) -> Iterator[tuple[int, Any]]:
    """Batches rank, rank + size, … of the first `limit`, each with its number.

    What is drawn while a batch is fetched (augmentation in a dataset) depends on `seed` and its number alone. Of a
    stock DataLoader over a dataset with indices, the batches of others are not fetched; any other iterable is read
    whole. A loader that its owner has cut by a DistributedSampler gives each process what it has.

    Args:
        loader: in the same order in every process.
        rank: of this process.
        size: number of processes.
        limit: number of batches, of all processes together; None for all.
        seed: of the streams.
    """
    seed_streams(seed, 0)
    first, step = (rank, size) if _is_cut(loader, size) else (0, 1)  # of the numbers of what the loader has
    numbers = count(first, step) if limit is None else range(first, limit, step)
    if _has_indices(loader):
        numbered = zip(numbers, _indices(loader), strict=False)
        return _fetching(loader, [(number, indices) for number, indices in numbered if number % size == rank], seed)
    return _skipping(loader, numbers, rank, size, seed)


def seed_streams(seed: int, number: int) -> None:
    """Let the random streams begin where those of batch `number` do."""
    start = (seed + 7919 * number) % 2**32
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002 (the stream that datasets draw from)
    torch.manual_seed(start)


def _is_cut(loader: Any, size: int) -> bool:
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", getattr(loader, "sampler", None))
    return size > 1 and isinstance(sampler, DistributedSampler) and sampler.num_replicas == size


def _skipping(
    loader: Iterable[Any], numbers: Iterable[int], rank: int, size: int, seed: int
) -> Iterator[tuple[int, Any]]:
    # what training sees: of several loaders at once, their batches together
    batches = (batch for batch, _, _ in loader) if isinstance(loader, CombinedLoader) else iter(loader)
    for number in numbers:
        seed_streams(seed, number)
        batch = next(batches, _END)
        if batch is _END:
            return
        if number % size == rank:
            yield number, batch


def _has_indices(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    """Whether it asks a dataset for lists of indices, and does nothing else."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


def _indices(loader: DataLoader[Any]) -> Iterator[Any]:
    """Those of its batches, in the order in which it would fetch them: another one draws as much as it does."""
    return iter(
        DataLoader(_Indices(), batch_sampler=loader.batch_sampler, collate_fn=_as_is, generator=loader.generator)
    )


def _fetching(loader: DataLoader[Any], chosen: list[tuple[int, Any]], seed: int) -> Iterator[tuple[int, Any]]:
    if not chosen:
        return iter(())
    options: dict[str, Any] = {name: getattr(loader, name) for name in _OPTIONS} | {"batch_sampler": chosen}
    batches = DataLoader(_Seeded(loader.dataset, seed), **options)
    return zip((number for number, _ in chosen), batches, strict=True)


class _Indices(Dataset[Any]):
    """Gives back what it is asked for."""

    def __getitems__(self, indices: Any) -> Any:
        return indices


class _Seeded(Dataset[Any]):
    """A dataset that is asked for numbered batches, each of which has random streams of its own."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, numbered: tuple[int, Any]) -> Any:
        number, indices = numbered
        seed_streams(self.seed, number)
        if together := getattr(self.dataset, "__getitems__", None):
            return together(indices)
        return [self.dataset[index] for index in indices]


def _as_is(batch: Any) -> Any:
    return batch
