"""Whole batches from tensors in memory, and a training order that a resumed run continues."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from spl.errors import InputError

Batch = tuple[Tensor, Tensor]


class ImageTensors(Dataset[Batch]):
    """A data set of images and labels in memory, from which one indexing operation fetches a whole batch.

    Args:
        images: uint8 [N, channels, height, width].
        labels: int64 [N].

    Example:
        >>> import torch
        >>> from spl.data.tensors import ImageTensors
        >>> digits = ImageTensors(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
        >>> images, labels = digits.__getitems__([3, 1])
        >>> labels
        tensor([3, 1])
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def to(self, device: torch.device) -> "ImageTensors":
        """Return the same data set on another device."""
        return ImageTensors(self.images.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a batch; PyTorch's DataLoader calls this instead of one `__getitem__` per example."""
        return self.batch(on_device(torch.tensor(indices), self.images.device))

    def batch(self, chosen: Tensor) -> Batch:
        """Return the images and labels with the indices `chosen` [N], which are on the device of the images."""
        # index_select copies row by row, not element by element
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on `device`, without waiting for the work that an accelerator has still to do.

    Example:
        >>> import torch
        >>> from spl.data.tensors import on_device
        >>> on_device(torch.tensor([2, 0]), torch.device("cpu"))
        tensor([2, 0])
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory, a copy waits
    return tensor.to(device, non_blocking=True)


def whole_batches(dataset: ImageTensors, batch_size: int, **options: Any) -> DataLoader[Batch]:
    """Return a DataLoader over whole batches.

    Args:
        dataset: the data set to draw from.
        batch_size: examples per batch.
        options: further arguments of PyTorch's DataLoader.

    Example:
        >>> import torch
        >>> from spl.data.tensors import ImageTensors, whole_batches
        >>> digits = ImageTensors(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
        >>> [len(labels) for _, labels in whole_batches(digits, batch_size=4)]
        [4, 4, 2]
    """
    return DataLoader(dataset, batch_size=batch_size, collate_fn=_identity, **options)


def _identity(batch: Any) -> Any:
    return batch


class EpochOrder(DistributedSampler[int]):
    """A shuffle that depends only on (seed, epoch), is divided over the ranks, and can start in the middle.

    Example:
        >>> from spl.data.tensors import EpochOrder
        >>> order = EpochOrder(range(6), num_replicas=1, rank=0, seed=0)
        >>> whole = list(order)
        >>> order.start = 4
        >>> list(order) == whole[4:]
        True
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.start, None)


class TrainLoader(DataLoader[Batch]):
    """A loader of shuffled whole batches whose position is saved in checkpoints, so that a resumed epoch continues.

    Lightning keeps the state of loaders that have `state_dict` and `load_state_dict`. The order of an epoch is sent to
    the device of the images once, so that no batch is waited for.

    Args:
        dataset: the data set to draw from.
        batch_size: examples per batch and rank.
        seed: seed of the shuffle.
        rank: rank of this process.
        world_size: number of processes.

    Example:
        >>> import torch
        >>> from spl.data.tensors import ImageTensors, TrainLoader
        >>> digits = ImageTensors(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
        >>> loader = TrainLoader(digits, batch_size=4, seed=0, rank=0, world_size=1)
        >>> _ = next(iter(loader))
        >>> loader.state_dict()
        {'epoch': 0, 'batches': 1}
    """

    def __init__(self, dataset: ImageTensors, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.order = EpochOrder(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=self.order,  # a DistributedSampler, which Lightning leaves in place
        )
        self._position = {"epoch": 0, "batches": 0}
        self._resume_from: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        resume, self._resume_from = self._resume_from, None
        done = resume["batches"] if resume and resume["epoch"] == self.order.epoch else 0
        self.order.start = done * (self.batch_size or 1)
        self._position = {"epoch": self.order.epoch, "batches": done}
        images = self.dataset
        assert isinstance(images, ImageTensors)
        order = on_device(torch.tensor(list(self.order), dtype=torch.int64), images.labels.device)
        size = self.batch_size or 1
        for start in range(0, len(order), size):
            self._position["batches"] += 1
            yield images.batch(order[start : start + size])

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of its batches that were drawn."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass at `state`, if it is of the same epoch.

        Raises:
            InputError: the state is not one that `state_dict` returns.
        """
        numbers = [state.get(key) for key in ("epoch", "batches")] if isinstance(state, dict) else [None]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise InputError(
                f"A loader of batches cannot go on from {ascii(state)[:60]}, which is no number of an epoch and of its "
                "batches: the checkpoint was changed after it was written. Give another one."
            )
        self._resume_from = dict(state)
        self._position = dict(state)
