"""Compare the time that one process and two processes take to score by connection sensitivity under DDP on CPU (gloo).

MLP-7 is scored on all of MNISTSample in batches of 10, and ResNet-20 on 16 batches of 50 of its digits, with one thread
per process. The script times the criterion from the first batch to the scores, including data and the sum over
processes. It runs one process and two processes in turn, three times. The wall-clock time can halve only if two cores
are idle, so the script also prints the CPU seconds of the busiest process.

Claim: CPU seconds of one process / of the busier of two >= 1.5.

    python benchmarks/scoring_processes.py
"""

import logging
import os
import socket
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import torch
from pytorch_lightning import Trainer
from torch import nn

from spl import PruneAtInit, SparseClassifier
from spl.criteria import ConnectionSensitivity, Scores, Subject
from spl.data import MNISTSample
from spl.networks import MLP, ResNet


class Timed(ConnectionSensitivity):
    """Connection sensitivity that records its wall-clock time and its CPU time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, subject: Subject) -> Scores:
        """Return the scores, and write the times to a file."""
        subject.processes.add_up_([torch.zeros(1)])  # wait for the other processes
        clock, cpu = time.perf_counter(), time.process_time()
        scores = super().__call__(subject)
        took = f"{time.perf_counter() - clock} {time.process_time() - cpu}"
        (self._folder / str(subject.processes.rank)).write_text(took)
        return scores


def score(rank: int, size: int, folder: Path, network: nn.Module, data: MNISTSample, batches: int | None) -> None:
    """Start a fit as one of several processes, and end it before the first step."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    trainer = Trainer(
        accelerator="cpu",
        devices=size,
        strategy="ddp" if size > 1 else "auto",
        max_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PruneAtInit(criterion=Timed(folder), batches=batches, isometry=None)],
    )
    trainer.fit(SparseClassifier(network), datamodule=data)


def seconds(size: int, *what: object) -> list[float]:
    """Return the largest wall-clock time and the largest CPU time of `size` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(score, (size, Path(folder), *what), nprocs=size, start_method="fork")
        took = [[float(number) for number in path.read_text().split()] for path in Path(folder).iterdir()]
    return [max(numbers) for numbers in zip(*took, strict=True)]


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, one thread a process, {os.cpu_count()} cores")
    for name, network, data, batches in (
        ("MLP-7", MLP(), MNISTSample(batch_size=10), None),
        ("ResNet-20", ResNet(in_channels=1), MNISTSample(batch_size=50), 16),
    ):
        pairs = [(seconds(1, network, data, batches), seconds(2, network, data, batches)) for _ in range(3)]
        for kind, what in enumerate(("clock", "CPU")):
            ratios = [one[kind] / two[kind] for one, two in pairs]
            alone = median(one[kind] for one, _ in pairs)
            print(f"{name}, {what}: one process {alone:.2f} s, one / two", end=" ")
            print(", ".join(f"{ratio:.2f}" for ratio in ratios), f"median {median(ratios):.2f}", sep="; ")
