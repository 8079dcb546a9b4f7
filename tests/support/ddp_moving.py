"""A script for test_move_masks.py: masks that move on one CPU process and on two, with gradients that are exact."""

import json
import os
import socket
import sys
from pathlib import Path

import pytorch_lightning as L
import torch
from fits import PLAIN
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from spl import MoveMasks, PruneAtInit
from spl.criteria import Random
from spl.updates import GMP, SET, RigL

UPDATES = {"SET": SET(every=2), "RigL": RigL(every=2), "GMP": GMP(0.9, every=2)}


class Exact(L.LightningModule):
    """A module whose weights stay small multiples of a power of two, so that sums round in no order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8, bias=False)
        generator = torch.Generator().manual_seed(0)
        self.layer.weight.data = torch.randint(1, 64, (8, 16), generator=generator) / 64
        self.register_buffer("slopes", torch.arange(1.0, 9.0))

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) * self.slopes).sum(1).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=2**-8)


def work(rank: int, size: int, folder: Path) -> None:
    """Fit with each update as one of several processes, and write down the masks."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    inputs = torch.randint(-4, 5, (64, 16), generator=torch.Generator().manual_seed(1)).float()
    data = TensorDataset(inputs)
    own = DistributedSampler(data, size, rank, shuffle=False)
    found = {}
    for name, update in UPDATES.items():
        L.seed_everything(rank, verbose=False)  # a different seed on every process
        pruning, moving = PruneAtInit(sparsity=0.5, criterion=Random(seed=0), isometry=None), MoveMasks(update, seed=1)
        settings = {"devices": size, "strategy": "ddp" if size > 1 else "auto", "limit_train_batches": 1.0}
        settings |= {"use_distributed_sampler": False}  # which would be shuffled
        trainer = L.Trainer(**(PLAIN | settings), callbacks=[pruning, moving])
        module = Exact()
        trainer.fit(module, DataLoader(data, batch_size=8 // size, sampler=own))
        assert pruning.masks.revived(dict(module.named_parameters())) == {}
        weights = module.layer.weight.tolist()
        found[name] = {"masks": pruning.masks.digest(), "weights": weights, "updates": moving.moving.updates}
    (folder / f"{size}-{rank}.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    for size in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        # forked, so that no process repeats the imports
        torch.multiprocessing.start_processes(work, (size, folder), nprocs=size, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
