"""How fast batches arrive: spl's whole-batch loader against torchvision's data set, one image at a time.

Shuffled, normalized training batches of 100 MNIST digits. spl indexes one uint8 tensor per batch and normalizes it in
`on_after_batch_transfer`; torchvision's MNIST with ToTensor and Normalize goes through the stock DataLoader, without
workers and with two. Reads MNIST from the folder in the variable SPL_DATA; where that is unset, random files of the
same shape. On one thread: the threads of neighbouring processes stall each other.

Claim: torchvision / spl >= 10.

    SPL_DATA=data python benchmarks/data_loading.py
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from ratios import compare
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, ToTensor

from spl.data import MNIST

BATCHES = 50


def write_random_files(root: Path) -> None:
    """Files in MNIST's format and sizes, of random bytes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, size in (("train", 60_000), ("t10k", 10_000)):
        for kind, shape, most in (("images-idx3", (size, 28, 28), 256), ("labels-idx1", (size,), 10)):
            header = np.array([0x800 + len(shape), *shape], dtype=">i4").tobytes()
            body = random.integers(most, size=shape, dtype=np.uint8).tobytes()
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + body)


def endless(loader: Iterable, prepare: Callable = lambda batch: batch) -> Callable[[], None]:
    """A function that draws the next batches, epoch after epoch."""
    batches = chain.from_iterable(repeat(loader))

    def draw() -> None:
        for batch in islice(batches, BATCHES):
            prepare(batch)

    return draw


def measure(data: MNIST) -> None:
    data.setup()
    images = datasets.MNIST(data.root, transform=Compose([ToTensor(), Normalize(data.mean, data.std)]))
    candidates = {
        "spl": endless(data.train_dataloader(), lambda batch: data.on_after_batch_transfer(batch, 0)),
        "torchvision": endless(DataLoader(images, 100, True)),
        "torchvision, 2 workers": endless(DataLoader(images, 100, True, num_workers=2, persistent_workers=True)),
    }
    compare("MNIST, one step = one batch of 100", candidates, repeats=20, steps=BATCHES)


def main() -> None:
    torch.set_num_threads(1)
    if "SPL_DATA" in os.environ:
        measure(MNIST(os.environ["SPL_DATA"], download=False))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_random_files(Path(folder))
        data = MNIST(folder, download=False)
        data.md5 = {}  # of MNIST's own files
        measure(data)


if __name__ == "__main__":
    main()
