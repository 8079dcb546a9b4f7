"""Compare a training step of `fit`, under the Trainer, with a step of a bare PyTorch loop.

MLP-7 is trained on MNISTSample at batch 100 by SGD with momentum, for twenty epochs at a time. The bare loop draws,
normalizes and trains on the same images and reports nothing. `fit` adds the Trainer, its data loader, the mean loss and
accuracy, and a TensorBoardLogger that writes every 50 steps. "fit, masked" also adds masks at sparsity 0.9. The start
of `fit` is timed too. All on one thread, because the threads of neighbouring processes stall each other.

Claim: fit / bare loop <= 1.5.

    python benchmarks/fit_step.py
"""

import logging
import tempfile
import warnings

import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from ratios import compare

from spl.classifier import SparseClassifier, sgd
from spl.criteria import Random
from spl.data import MNISTSample
from spl.networks import MLP
from spl.pruning import prune

EPOCHS = 20


def bare(data: MNISTSample) -> None:
    """Train with the loop that one would write by hand."""
    network = MLP()
    optimizer = sgd(network.parameters())
    images, labels = data.train.images, data.train.labels
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(data.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(data.normalize(images[chosen])), labels[chosen])
            loss.backward()
            optimizer.step()


def fit(data: MNISTSample, folder: str, masked: bool) -> None:
    """Train for the same epochs under the Trainer."""
    model = SparseClassifier(MLP())
    if masked:
        model.set_masks(prune(model.network, Random(), sparsity=0.9))
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, default_hp_metric=False),
        log_every_n_steps=50,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = MNISTSample()
    data.setup()
    with tempfile.TemporaryDirectory() as folder:
        candidates = {
            "bare loop": lambda: bare(data),
            "fit": lambda: fit(data, folder, masked=False),
            "fit, masked": lambda: fit(data, folder, masked=True),
        }
        compare("MLP-7, MNISTSample, batch 100", candidates, repeats=12, steps=EPOCHS * len(data.train_dataloader()))


if __name__ == "__main__":
    main()
