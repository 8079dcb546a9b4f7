"""The cost of a run: how long it will take on this machine, estimated from its arithmetic."""

import json
import time
from functools import cache

import torch

from spl.export.cost import weight_macs
from spl.reproduction.run import Run, build

# measured with MLP-7 on MNIST, one thread
_SECONDS_PER_RUN = 2.0  # for reading data and configuration, spectra, and correction
_SECONDS_PER_STEP = 4e-4  # in addition to the products
_EFFICIENCY = 0.6  # of the products of training, relative to a product of large matrices
_DATA = {"MNIST": (54_000, (1, 28, 28)), "FashionMNIST": (54_000, (1, 28, 28)), "CIFAR10": (45_000, (3, 32, 32))}


@cache
def seconds(run: Run) -> float:
    """Return the seconds of one process for scores, spectra and training, a guess within a factor of two."""
    data = run.config["data"]["class_path"].rpartition(".")[2]
    batch = run.config["data"]["init_args"]["batch_size"]
    total, shape = _DATA[data]
    pruning = run.config["pruning"]
    scored = total if pruning["batches"] is None else pruning["batches"] * batch
    measured = run.config["spectrum"]["examples"] or total
    forward = _forward_flops(json.dumps(run.network), shape)
    flops = 3 * forward * (scored + run.steps * batch) + 10 * 3 * forward * measured  # a row for each class
    return float(_SECONDS_PER_RUN + run.steps * _SECONDS_PER_STEP + flops / (_EFFICIENCY * _flops_per_second()))


@cache
def _forward_flops(network: str, shape: tuple[int, ...]) -> int:
    """Return the floating-point operations of a forward pass of one example; the backward pass takes twice as many.

    Args:
        network: the network's class_path and init_args as JSON, because one network serves thousands of runs.
        shape: the shape of the example.
    """
    return 2 * sum(weight_macs(build(json.loads(network)), torch.empty(1, *shape, device="meta")).values())


@cache
def _flops_per_second() -> float:
    """Measure the floating-point operations per second of one thread, or of an accelerator."""
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
