"""The data module of CIFAR-10, which torchvision downloads and reads."""

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torchvision import datasets

from spl.data.augment import Border, cutout, flip_and_shift
from spl.data.files import check_files, download_missing
from spl.data.images import ImageDataModule, channel_values
from spl.data.tensors import ImageTensors
from spl.errors import InputError

_SHIFT = 4


class CIFAR10(ImageDataModule):
    """The data module of CIFAR-10: 50,000 + 10,000 photographs, 32×32 in colour; 45,000 train, 5,000 validate.

    Training images are mirrored with probability ½ and shifted by up to 4 pixels each way, as in the paper.

    Args:
        root: folder of the data sets; the files are in `root/cifar-10-batches-py`.
        batch_size: training examples per step and process.
        download: whether to download missing files.
        border: what fills pixels that a shift uncovers: black (zero), or the image mirrored at its border (reflect).
        cutout: side in pixels of a square that is blanked in each training image; 0 for none.

    Example:
        >>> from spl.data import CIFAR10
        >>> data = CIFAR10(root="data", batch_size=128, cutout=16)
        >>> data.folder.as_posix()
        'data/cifar-10-batches-py'
    """

    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(
        self,
        root: Path = Path("data"),
        batch_size: int = 128,
        download: bool = True,
        border: Border = "zero",
        cutout: int = 0,
    ) -> None:
        super().__init__(batch_size)
        if border not in get_args(Border):
            raise InputError(f"border must be one of {', '.join(get_args(Border))}, got {border!r}.")
        if not 0 <= cutout <= 32:
            raise InputError(f"cutout must lie in [0, 32], the side of a square in pixels, got {cutout}.")
        self.border: Border = border
        self.cutout = cutout
        source = datasets.CIFAR10
        self.root = Path(root)
        self.folder = self.root / source.base_folder
        self.md5 = dict([*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])])
        self.download = download

    def prepare_data(self) -> None:
        """Download missing files, if that is allowed."""
        if self.download:
            download_missing("CIFAR10", self.folder, self.md5, lambda: datasets.CIFAR10(self.root, download=True))

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images [N, 3, 32, 32]; every file's MD5 is checked before it is unpickled."""
        check_files("CIFAR10", self.folder, self.md5)
        train, test = (_tensors(_CheckedCIFAR10(self.root, train=train)) for train in (True, False))
        return train, test

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror, shift and cut out each image [C, H, W] of a batch independently."""
        images = flip_and_shift(images, _SHIFT, self.border, generator)
        if self.cutout:
            grey = channel_values(self.mean, images.device).round().to(images.dtype)
            images = cutout(images, self.cutout, grey, generator)
        return images


class _CheckedCIFAR10(datasets.CIFAR10):  # type: ignore[misc]
    """A data set of files that have been checked; torchvision would check all of them again for each half."""

    def _check_integrity(self) -> bool:
        return True


def _tensors(source: datasets.CIFAR10) -> ImageTensors:
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return ImageTensors(images, torch.tensor(source.targets))
