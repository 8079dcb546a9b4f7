"""Run by test_ddp.py: the same fits by 1, 2 and 4 processes, each of which writes down what it saw."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from fits import PLAIN, digest
from foreign import Plain
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from spl import PruneAtInit, SparseClassifier
from spl.criteria import FORCE, NTKSAP, ConnectionSensitivity, GraSP, Random, SynFlow
from spl.data import MNISTSample
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry
from spl.networks import MLP, ResNet
from spl.schedules import Exponential

SIZES = (1, 2, 4)


class Noisy(Dataset):
    """Examples that are drawn anew whenever they are fetched, and who fetched them."""

    fetched: set[int] = set()

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.fetched.add(index)
        return torch.randn(3, 4, 4) + index / 50, index % 4


class Endless(IterableDataset):
    """Examples without end, the same in every process."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(3, 4, 4, generator=generator), 1


class Denoiser(Plain):
    """Its loss draws random numbers, and fails where it is told to."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 4)))
        self.fails = fails

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.fails:
            raise ZeroDivisionError("this loss broke")
        return F.cross_entropy(self.network(x + torch.randn_like(x)), y)


class Breaks(ApproximateIsometry):
    def __call__(self, network, masks):
        raise RuntimeError("this correction broke")


def mlp() -> SparseClassifier:
    return SparseClassifier(MLP(depth=3, width=20), initializer=Orthogonal())


def shuffled(size: int = 8) -> DataLoader:
    return DataLoader(Noisy(), batch_size=size, shuffle=True)


def cut(rank: int, size: int) -> DataLoader:
    sampler = DistributedSampler(Noisy(), num_replicas=size, rank=rank, shuffle=False)
    return DataLoader(Noisy(), batch_size=5, sampler=sampler)


Case = Callable[[int, int], tuple[L.LightningModule, Any, dict[str, Any]]]

AGREE: dict[str, Case] = {
    "all the data": lambda rank, size: (mlp(), MNISTSample(), {"isometry": ApproximateIsometry(max_iterations=20)}),
    "GraSP, uneven": lambda rank, size: (mlp(), MNISTSample(), {"criterion": GraSP(), "batches": 5}),
    "rounds, fewer batches than processes": lambda rank, size: (
        mlp(),
        MNISTSample(),
        {"criterion": FORCE(), "schedule": Exponential(3), "batches": 3},
    ),
    "one batch": lambda rank, size: (mlp(), MNISTSample(), {"criterion": GraSP(), "batches": 1}),
    "statistics of batches": lambda rank, size: (
        SparseClassifier(ResNet(blocks_per_stage=1, width=2, in_channels=1, image_size=28)),
        MNISTSample(),
        {"batches": 3, "batch_norm": "batch"},
    ),
    "shape alone": lambda rank, size: (mlp(), MNISTSample(), {"criterion": SynFlow(), "schedule": Exponential(3)}),
    "inputs of its own": lambda rank, size: (mlp(), MNISTSample(), {"criterion": NTKSAP(), "schedule": Exponential(2)}),
    "no data": lambda rank, size: (mlp(), MNISTSample(), {"criterion": Random()}),
    "random data, random loss": lambda rank, size: (Denoiser(), shuffled(), {}),
    "endless": lambda rank, size: (Plain(Denoiser().network), DataLoader(Endless(), batch_size=8), {"batches": 6}),
}
FAIL: dict[str, Case] = {
    "loss": lambda rank, size: (Denoiser(fails=rank == size - 1), shuffled(), {}),
    "correction": lambda rank, size: (mlp(), MNISTSample(), {"isometry": Breaks() if rank == size - 1 else None}),
}


def main(folder: Path, accelerator: str) -> None:
    for size in SIZES:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        children = []
        for rank in range(size):
            if (child := os.fork()) == 0:
                ...


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
