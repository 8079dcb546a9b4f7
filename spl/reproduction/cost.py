"""Cost: how long a run will take on this machine, from its arithmetic."""

import json
import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from spl.reproduction.run import Run, build

# measured with MLP-7 on MNIST, one thread
_SECONDS_A_RUN = 2.0  # for reading data and configuration, spectra, and correction
_SECONDS_A_STEP = 4e-4  # beside the products
_EFFICIENCY = 0.6  # of the products of training, against one of large matrices
_DATA = {"MNIST": (54_000, (1, 28, 28)), "FashionMNIST": (54_000, (1, 28, 28)), "CIFAR10": (45_000, (3, 32, 32))}


@cache
def seconds(run: Run) -> float:
    """Of a process: scores, spectra and training; a guess that is good to a factor of two."""
    data = run.config["data"]["class_path"].rpartition(".")[2]
    batch = run.config["data"]["init_args"]["batch_size"]
    total, shape = _DATA[data]
    pruning = run.config["pruning"]
    scored = total if pruning["batches"] is None else pruning["batches"] * batch
    measured = run.config["spectrum"]["examples"] or total
    forward = _operations(json.dumps(run.network), shape)
    operations = 3 * forward * (scored + run.steps * batch) + 10 * 3 * forward * measured  # a row for each class
    return float(_SECONDS_A_RUN + run.steps * _SECONDS_A_STEP + operations / (_EFFICIENCY * _speed()))


@cache
def _operations(network: str, shape: tuple[int, ...]) -> int:
    """Floating-point operations of a forward pass of one example; the backward pass takes twice as many.

    Args:
        network: its class and arguments, as JSON: one serves thousands of runs.
        shape: of the example.
    """
    with FlopCounterMode(display=False) as counter:
        build(json.loads(network)).eval()(torch.empty(1, *shape, device="meta"))
    return int(counter.get_total_flops())


@cache
def _speed() -> float:
    """Floating-point operations a second of one thread, or of an accelerator."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 512)
    matrix = torch.ones(size, size, device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (matrix @ matrix).sum().item()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / min(times)
