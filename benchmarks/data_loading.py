"""Compare the speed of spl's data loader, which handles whole batches, with torchvision's data sets of single images.

The script draws shuffled training batches: 100 normalized MNIST digits, and 128 CIFAR-10 photographs that are flipped,
shifted and normalized. spl indexes one uint8 tensor per batch and prepares it in `on_after_batch_transfer`.
torchvision's data sets, with its transforms of single images, go through the stock DataLoader, without workers and with
two. Then the script times whole steps of `fit` on CIFAR-10, with ResNet-20 and with a network that does nothing. The
data sets are read from the folder that the environment variable SPL_DATA names; if it is unset, random files of the
same shape are used. All on one thread, because the threads of neighbouring processes stall each other.

Claims: torchvision / spl >= 10 on MNIST and >= 20 on CIFAR-10; ResNet-20 / nothing >= 10.

    SPL_DATA=data python benchmarks/data_loading.py
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Trainer
from ratios import compare
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from spl.classifier import SparseClassifier
from spl.data import CIFAR10, MNIST
from spl.data.tensors import ImageTensors
from spl.networks import ResNet

BATCHES = 50
STEPS = 10


def write_random_files(root: Path) -> None:
    """Write files of random bytes in the format and sizes of MNIST."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, size in (("train", 60_000), ("t10k", 10_000)):
        for kind, shape, most in (("images-idx3", (size, 28, 28), 256), ("labels-idx1", (size,), 10)):
            header = np.array([0x800 + len(shape), *shape], dtype=">i4").tobytes()
            body = random.integers(most, size=shape, dtype=np.uint8).tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + body)


class RandomCIFAR10(CIFAR10):
    """A data set of random bytes in the shapes of CIFAR-10."""

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return 50,000 images for training and 10,000 for testing."""
        train, test = (torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8) for n in (50_000, 10_000))
        return ImageTensors(train, torch.arange(50_000) % 10), ImageTensors(test, torch.arange(10_000) % 10)


class Photographs(datasets.CIFAR10):
    """torchvision's CIFAR-10, on images that are already in memory."""

    def __init__(self, images: ImageTensors, transform: Callable) -> None:
        datasets.VisionDataset.__init__(self, transform=transform)
        self.data = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = images.labels.tolist()


class Nothing(nn.Module):
    """Ten weights, and no work."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same logits for every image."""
        return self.logits.expand(len(x), 10)


def endless(loader: Iterable, prepare: Callable = lambda batch: batch) -> Callable[[], None]:
    """Return a function that draws the next batches, epoch after epoch."""
    batches = chain.from_iterable(repeat(loader))

    def draw() -> None:
        for batch in islice(batches, BATCHES):
            prepare(batch)

    return draw


def mnist(data: MNIST) -> None:
    images = datasets.MNIST(data.root, transform=Compose([ToTensor(), Normalize(data.mean, data.std)]))
    candidates = {
        "spl": endless(data.train_dataloader(), lambda batch: data.on_after_batch_transfer(batch, 0)),
        "torchvision": endless(DataLoader(images, 100, True)),
        "torchvision, 2 workers": endless(DataLoader(images, 100, True, num_workers=2, persistent_workers=True)),
    }
    compare("MNIST, one step = one batch of 100", candidates, repeats=20, steps=BATCHES, pause=0.5)


def cifar10(data: CIFAR10) -> None:
    transforms = [RandomHorizontalFlip(), RandomCrop(32, padding=4), ToTensor(), Normalize(data.mean, data.std)]
    images = Photographs(data.train, Compose(transforms))
    generator = torch.Generator().manual_seed(0)
    candidates = {
        "spl": endless(data.train_dataloader(), lambda batch: data.normalize(data.augment(batch[0], generator))),
        "torchvision": endless(DataLoader(images, 128, True)),
        "torchvision, 2 workers": endless(DataLoader(images, 128, True, num_workers=2, persistent_workers=True)),
    }
    compare("CIFAR-10, one step = one batch of 128", candidates, repeats=10, steps=BATCHES, pause=0.5)


def fit(data: CIFAR10, network: nn.Module) -> None:
    """Train for some steps under the Trainer. Its start is timed too."""
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SparseClassifier(network), datamodule=data)


def steps_of_fit(data: CIFAR10) -> None:
    nothing, resnet = Nothing(), ResNet()
    candidates = {"nothing": lambda: fit(data, nothing), "ResNet-20": lambda: fit(data, resnet)}
    compare("CIFAR-10, one step of fit at batch 128", candidates, repeats=5, steps=STEPS)


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if "SPL_DATA" in os.environ:
            digits, photographs = (kind(os.environ["SPL_DATA"], download=False) for kind in (MNIST, CIFAR10))
        else:
            write_random_files(Path(folder))
            digits, photographs = MNIST(folder, download=False), RandomCIFAR10(folder, download=False)
            digits.md5 = {}  # these are the checksums of the real files
        digits.setup()
        photographs.setup()
        mnist(digits)
        cifar10(photographs)
        steps_of_fit(photographs)


if __name__ == "__main__":
    main()
