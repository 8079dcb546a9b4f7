"""CIFAR-10, from torchvision's data set."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from spl.data.files import check_files, download_missing
from spl.data.images import ImageDataModule
from spl.data.tensors import ImageTensors

_SHIFT = 4


class CIFAR10(ImageDataModule):
    """CIFAR-10: 50,000 + 10,000 photographs, 32×32 in colour; 45,000 train, 5,000 validate.

    Training images are mirrored with probability ½ and shifted by up to 4 pixels each way, as in the paper.

    Args:
        root: folder of the data sets; the files lie in `root/cifar-10-batches-py`.
        batch_size: training examples per step and process.
        download: fetch the files that are not there.
    """

    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(self, root: Path = Path("data"), batch_size: int = 128, download: bool = True) -> None:
        super().__init__(batch_size)
        source = datasets.CIFAR10
        self.root = Path(root)
        self.folder = self.root / source.base_folder
        self.md5 = dict([*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])])
        self.download = download

    def prepare_data(self) -> None:
        """Download what is missing, if allowed."""
        if self.download:
            download_missing("CIFAR10", self.folder, self.md5, lambda: datasets.CIFAR10(self.root, download=True))

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Images [N, 3, 32, 32] and labels; every file's MD5 is checked before it is unpickled."""
        check_files("CIFAR10", self.folder, self.md5)
        train, test = (_tensors(datasets.CIFAR10(self.root, train=train)) for train in (True, False))
        return train, test

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror and shift [N, C, H, W], each image on its own; what a shift uncovers is black."""
        n, _, height, width = images.shape
        device = images.device
        flip = torch.rand(n, 1, generator=generator, device=device) < 0.5
        down, right = torch.randint(2 * _SHIFT + 1, (2, n, 1), generator=generator, device=device)
        rows = torch.arange(height, device=device) + down  # of the padded image
        columns = torch.arange(width, device=device).expand(n, width)
        columns = torch.where(flip, width - 1 - columns, columns) + right
        padded = F.pad(images, [_SHIFT] * 4).permute(0, 2, 3, 1)
        example = torch.arange(n, device=device)[:, None, None]
        return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _tensors(source: datasets.CIFAR10) -> ImageTensors:
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
    return ImageTensors(images, torch.tensor(source.targets))
