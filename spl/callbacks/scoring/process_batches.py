"""Every n-th batch of a loader for each of n processes, alike whoever fetches it, without fetching the others."""

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any, TypeGuard

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, get_worker_info

from spl.lightning_api import CombinedLoader

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


def batches_of_process(
    loader: Iterable[Any], rank: int, size: int, limit: int | None, seed: int
) -> Iterator[tuple[int, Any]]:
    """Return the batches rank, rank + size, … of the first `limit` batches, each with its number.

    What is drawn while a batch is fetched (augmentation in a dataset) depends only on `seed` and on the number of the
    batch. If the loader is a plain DataLoader over a dataset with indices, the batches of other processes are not
    fetched; any other iterable is read as a whole. A loader that its owner has split by a DistributedSampler gives
    each process the batches that it has there.

    Args:
        loader: the batches, in the same order in every process.
        rank: the number of this process.
        size: the number of processes.
        limit: the number of batches of all processes together; None for all.
        seed: decides the random streams.
    """
    seed_streams(seed, 0)
    first, step = (rank, size) if _is_cut(loader, size) else (0, 1)  # the numbers of the batches that the loader has
    numbers = count(first, step) if limit is None else range(first, limit, step)
    if _has_indices(loader):
        numbered = zip(numbers, _indices(loader), strict=False)
        return _fetching(loader, [(number, indices) for number, indices in numbered if number % size == rank], seed)
    return _skipping(loader, numbers, rank, size, seed)


def seed_streams(seed: int, number: int) -> None:
    """Seed the random streams for batch `number`."""
    start = (seed + 7919 * number) % 2**32
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002 (datasets draw from this stream)
    if torch.accelerator.is_available():
        torch.manual_seed(start)
    else:  # torch.manual_seed would take a millisecond to note the seed for devices that are not there
        torch.default_generator.manual_seed(start)


def _is_cut(loader: Any, size: int) -> bool:
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", getattr(loader, "sampler", None))
    return size > 1 and isinstance(sampler, DistributedSampler) and sampler.num_replicas == size


def _skipping(
    loader: Iterable[Any], numbers: Iterable[int], rank: int, size: int, seed: int
) -> Iterator[tuple[int, Any]]:
    # as training sees them: several loaders give their batches together
    batches = (batch for batch, _, _ in loader) if isinstance(loader, CombinedLoader) else iter(loader)
    for number in numbers:
        seed_streams(seed, number)
        batch = next(batches, _END)
        if batch is _END:
            return
        if number % size == rank:
            yield number, batch


def _has_indices(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    """Return whether the loader only asks a dataset for lists of indices."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


def _indices(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the indices of its batches in the order in which it would fetch them, with the same random draws."""
    return iter(
        DataLoader(_Indices(), batch_sampler=loader.batch_sampler, collate_fn=_as_is, generator=loader.generator)
    )


def _fetching(loader: DataLoader[Any], chosen: list[tuple[int, Any]], seed: int) -> Iterator[tuple[int, Any]]:
    if not chosen:
        return iter(())
    options: dict[str, Any] = {name: getattr(loader, name) for name in _OPTIONS} | {"batch_sampler": chosen}
    options["worker_init_fn"] = partial(_begin_worker, loader.worker_init_fn)
    batches = DataLoader(_Seeded(loader.dataset, seed), **options)
    return zip((number for number, _ in chosen), batches, strict=True)


class _Indices(Dataset[Any]):
    """A dataset that returns the indices that it is asked for."""

    def __getitems__(self, indices: Any) -> Any:
        return indices


class _Seeded(Dataset[Any]):
    """A dataset that is asked for numbered batches, and seeds the random streams for each of them."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, numbered: tuple[int, Any]) -> Any:
        number, indices = numbered
        seed_streams(self.seed, number)
        if together := getattr(self.dataset, "__getitems__", None):
            return together(indices)
        return [self.dataset[index] for index in indices]


def _begin_worker(initialize: Callable[[int], None] | None, number: int) -> None:
    """Let a worker see the user's dataset as its own, as in training, and call the user's `worker_init_fn`."""
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, _Seeded)
    object.__setattr__(info, "dataset", info.dataset.dataset)  # plain assignment is refused
    if initialize is not None:
        initialize(number)


def _as_is(batch: Any) -> Any:
    return batch
