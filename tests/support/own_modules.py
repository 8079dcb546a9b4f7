"""LightningModules of a user, for the tests of the command, which copy this file to `own.py`."""

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spl import SparseClassifier


class Module(LightningModule):
    def __init__(self, width: int = 20):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithData(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def training_step(self, batch):
        return (self.net(batch[0]) - batch[0]).square().mean()

    def test_step(self, batch):
        self.log("error", self.training_step(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(8, 8)), batch_size=4)

    test_dataloader = train_dataloader


class Whole(SparseClassifier):
    def __init__(self, width: int = 8):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10)))
