"""A script for test_finite_loss.py: a fit on two processes; the loss of the second is NaN from the fourth step on."""

import sys
from pathlib import Path

import pytorch_lightning as L
import torch
from fits import PLAIN

from spl import SparseClassifier
from spl.callbacks import FiniteLoss
from spl.data import MNISTSample
from spl.errors import DivergedError
from spl.networks import MLP


class Diverging(SparseClassifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.global_rank == 1 and batch_idx >= 3 else loss


class Noting(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.last = batch_idx


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    L.seed_everything(0)
    noting = Noting()
    options = PLAIN | {"devices": 2, "strategy": "ddp", "limit_train_batches": 12, "log_every_n_steps": 5}
    trainer = L.Trainer(**options, callbacks=[noting, FiniteLoss()])
    try:
        trainer.fit(Diverging(MLP(depth=2, width=10)), datamodule=MNISTSample())
    except DivergedError as error:
        (folder / f"{trainer.global_rank}.txt").write_text(f"{noting.last} {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
