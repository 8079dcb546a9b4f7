"""Compare a training step of a population, networks trained as one stack of tensors, with a step of one `fit`.

The populations are 1, 4, 16 and 64 MLP-7 networks of eight seeds at sparsity 0.9, on MNISTSample at batch 100. They
train for five epochs at a time, with validation, loggers, the state kept in each epoch, and checkpoints at the end.
`fit` trains one network with validation and a TensorBoardLogger. Start and end are timed on both sides; preparing the
members is not.

Claim: on a CPU, a step of each of 64 networks takes at most 0.6 of a step under `fit`; on an accelerator, a step of all
64 together takes at most 4 of them.

    python benchmarks/population.py [--device cuda] [--members 1 4 16 64]
"""

import argparse
import logging
import os
import tempfile
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from ratios import compare
from tabulate import tabulate

from spl.callbacks import JacobianSpectrum, LastCheckpoint
from spl.classifier import SparseClassifier
from spl.criteria import Random
from spl.data import MNISTSample
from spl.networks import MLP
from spl.pruning import prune
from spl.reproduction.stacked import PreparedRun, train

EPOCHS = 5
STEPS = 41 * EPOCHS
SEEDS = 8


def fit(data: MNISTSample, device: str) -> None:
    """Train one network under the Trainer."""
    model = SparseClassifier(MLP())
    model.set_masks(prune(model.network, Random(), sparsity=0.9))
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator=device,
        devices=1,
        logger=TensorBoardLogger("single", default_hp_metric=False),
        callbacks=[LastCheckpoint()],
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)


def member(seed: int, device: str) -> PreparedRun:
    """Return one of the runs to stack, as `spl fit` would prepare it."""
    torch.manual_seed(seed % SEEDS)
    model, data = SparseClassifier(MLP()), MNISTSample()
    model.set_masks(prune(model.network, Random(seed=seed), sparsity=0.9))
    folder = Path(f"member_{seed}")
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator=device,
        devices=1,
        logger=TensorBoardLogger(folder, default_hp_metric=False),
        callbacks=[JacobianSpectrum(every_n_epochs=None)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data.trainer = trainer
    data.setup()
    model.to(trainer.strategy.root_device)
    return PreparedRun(model, trainer, data, folder, tested=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        members = [member(seed, options.device) for seed in range(max(options.members))]
        data = MNISTSample()
        populations = {f"population of {size}": size for size in options.members}
        candidates = {"fit": lambda: fit(data, options.device)}
        candidates |= {
            name: lambda size=size: train(members[:size], Path(folder, "population.ckpt"))
            for name, size in populations.items()
        }
        title = f"MLP-7, MNISTSample, batch 100, {options.device}"
        ratios = compare(title, candidates, options.repeats, STEPS, warmups=1)
        rows = [(name, ratios[name], ratios[name] / size) for name, size in populations.items()]
        print(tabulate(rows, headers=["", "ratio to fit", "per network"], floatfmt=("", ".3f", ".3f")))


if __name__ == "__main__":
    main()
