"""The base class of the image data modules. Images are uint8 on the device, and are prepared there in whole batches."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spl.data.tensors import Batch, ImageTensors, TrainLoader, whole_batches
from spl.errors import InputError
from spl.lightning_api import LightningDataModule, Trainer, mismatch

_EVALUATION_BATCH = 200

Images = ImageTensors | tuple[Tensor, Tensor]
"""Images [N, channels, height, width] as uint8 with their labels [N]."""

Splits = tuple[ImageTensors, ImageTensors, ImageTensors]
"""The training, validation and test images."""


class ImageDataModule(LightningDataModule):
    """A data module with the training, validation and test images of one data set.

    A tenth of the training images is held out for validation (the paper's split) by a fixed permutation that no seed
    changes, so the validation images are the same in every run. `seed_everything` and the epoch determine the training
    order, and a checkpoint keeps it.

    A data set of your own defines `load`, and `augment` if training images are to be changed at random.

    Args:
        batch_size: training examples per step and process.

    Attributes:
        mean: the mean of each channel of the training images, as a share of 255. If a subclass does not say it, it is
            computed from them.
        std: the standard deviation of each channel, likewise.

    Example:
        >>> import torch
        >>> from spl.data import ImageDataModule
        >>> class Noise(ImageDataModule):
        ...     def load(self):
        ...         images, labels = torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8), torch.arange(100) % 10
        ...         return (images, labels), (images[80:], labels[80:])
        >>> data = Noise(batch_size=30)
        >>> data.setup()
        >>> [len(split) for split in data.splits]
        [90, 10, 20]
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    _trainer: Trainer | None = None

    def __init__(self, batch_size: int = 100) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size
        self.seed = 0
        self.train: ImageTensors | None = None
        self.val: ImageTensors | None = None
        self.test: ImageTensors | None = None
        self._shared: Splits | None = None

    def load(self) -> tuple[Images, Images]:
        """Return all training and test images, each with labels: `ImageTensors`, or pairs (images, labels)."""
        raise InputError(
            f"{type(self).__name__} has no images: define load(self), which returns (images, labels) for training and "
            "(images, labels) for testing, images as uint8 [N, channels, height, width] and labels as int64 [N]."
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the images, move them to the Trainer's device, and split the training images, once."""
        if self.train is None:
            self.seed = torch.initial_seed() % 2**31
            self.train, self.val, self.test = self._shared or self._read()
        if self.mean is None or self.std is None:
            mean, std = _moments(self._split("train").images)
            self.mean, self.std = self.mean or mean, self.std or std

    @property
    def trainer(self) -> Trainer | None:
        """Return the Trainer that uses the data, or None before one does."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        if message := mismatch(trainer):
            raise InputError(message)
        self._trainer = trainer

    @property
    def splits(self) -> Splits | None:
        """Return the images, or None before they are read."""
        if self.train is None or self.val is None or self.test is None:
            return None
        return self.train, self.val, self.test

    def share(self, splits: Splits) -> None:
        """Use images that another data module has read from the same place, instead of reading them again."""
        self._shared = splits

    def _read(self) -> Splits:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        train, test = (_checked(split).to(device) for split in self._loaded())
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(device)
        held_out = len(train) // 10
        val = ImageTensors(train.images[order[:held_out]], train.labels[order[:held_out]])
        return ImageTensors(train.images[order[held_out:]], train.labels[order[held_out:]]), val, test

    def _loaded(self) -> list[ImageTensors]:
        loaded: Any = self.load()
        pairs = [tuple(vars(part).values()) if isinstance(part, ImageTensors) else part for part in loaded or ()]
        if len(pairs) != 2 or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            raise InputError(
                f"{type(self).__name__}.load returned {type(loaded).__name__}: return (images, labels) for training "
                "and (images, labels) for testing."
            )
        return [ImageTensors(*pair) for pair in pairs]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the shuffled training batches of this process; the same in each epoch with `overfit_batches`."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return whole_batches(self._split("train"), self.batch_size)  # of the split, which is in random order
        if trainer is None:
            return TrainLoader(self._split("train"), self.batch_size, self.seed, rank=0, world_size=1)
        self.seed = trainer.strategy.broadcast(self.seed)  # without seed_everything, each rank has another one
        return TrainLoader(self._split("train"), self.batch_size, self.seed, trainer.global_rank, trainer.world_size)

    def scoring_dataloader(self, seed: int = 0) -> DataLoader[Batch]:
        """Return the training split for scores and spectra, in an order that `seed` alone determines."""
        generator = torch.Generator().manual_seed(seed)
        return whole_batches(self._split("train"), self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the validation images."""
        return whole_batches(self._split("val"), _EVALUATION_BATCH)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the data set's own test images."""
        return whole_batches(self._split("test"), _EVALUATION_BATCH)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the test images."""
        return self.test_dataloader()

    def _split(self, name: str) -> ImageTensors:
        if self.train is None:
            self.prepare_data()
            self.setup()
        split: ImageTensors = getattr(self, name)
        return split

    def state_dict(self) -> dict[str, int]:
        """Return the seed of the training order and of augmentation."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the training order and augmentation of the run that is resumed."""
        self.seed = int(state_dict["seed"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move both tensors to `device`."""
        images, labels = batch
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize a whole batch on its device, after augmenting it during training."""
        images, labels = batch
        augments = type(self).augment is not ImageDataModule.augment
        if augments and self.trainer is not None and self.trainer.training:
            # one random stream per step and rank, so that a resumed run draws what an uninterrupted one draws
            step = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.trainer.global_rank
            images = self.augment(images, torch.Generator(images.device).manual_seed(self.seed + 7919 * step))
        images = self.normalize(images)
        return self.trainer.precision_plugin.convert_input(images) if self.trainer else images, labels

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch of training images with random changes; without any unless a subclass makes them."""
        return images

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images [N, C, H, W] as float32, with mean 0 and variance 1 per channel in training images."""
        assert self.mean is not None
        assert self.std is not None
        mean, std = (channel_values(values, images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std)


def channel_values(shares: Iterable[float], device: torch.device) -> Tensor:
    """Return a number for each channel, given as a share of 255, in bytes [C]; it is sent to each device once.

    Example:
        >>> import torch
        >>> from spl.data.images import channel_values
        >>> channel_values([0.5, 1.0], torch.device("cpu"))
        tensor([127.5000, 255.0000])
    """
    return _on_device(tuple(shares), device)


@cache
def _on_device(shares: tuple[float, ...], device: torch.device) -> Tensor:
    return 255 * torch.tensor(shares, device=device)


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel of uint8 images, as shares of 255; exact sums."""
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = images[:, channel].flatten().bincount(minlength=256).double().cpu()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = float((counts * values).sum() / counts.sum())
        means.append(mean)
        deviations.append(max(float((counts * (values - mean) ** 2).sum() / counts.sum()) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _checked(split: ImageTensors) -> ImageTensors:
    """Return images and labels after checking that each image has a label that can be one."""
    if split.images.dtype != torch.uint8 or split.images.ndim != 4:
        raise InputError(
            f"Images are {split.images.dtype} {tuple(split.images.shape)}: give them as uint8 [N, channels, height, "
            "width], from 0 to 255."
        )
    images, labels = len(split.images), split.labels
    if labels.shape != (images,) or labels.dtype != torch.int64 or (images and int(labels.min()) < 0):
        least = f", the least {int(labels.min())}" if labels.numel() else ""
        raise InputError(
            f"{images} images have labels {tuple(labels.shape)} of {labels.dtype}{least}: give each image one label, "
            "an int64 from 0."
        )
    return split
