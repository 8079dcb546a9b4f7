"""The cost of a run: how long it will take on this machine, estimated from its arithmetic."""

import json
import time
from functools import cache

import torch

from spl.export.cost import weight_macs
from spl.reproduction.length import batch_size, training_examples
from spl.reproduction.run import Run, build

# measured with MLP-7 on MNIST, one thread
_SECONDS_PER_RUN = 2.0  # for reading data and configuration, spectra, and correction
_SECONDS_PER_STEP = 4e-4  # in addition to the products
_MEASURED = 1000  # examples at which spectra are measured by default
_EFFICIENCY = 0.6  # of the products of training, relative to a product of large matrices


@cache
def seconds(run: Run) -> float:
    """Return the seconds of one process for scores, spectra and training, a guess within a factor of two."""
    config = run.config
    (total, shape), batch = training_examples(config), batch_size(config)
    batches, examples = config["pruning"].get("batches"), config.get("spectrum", {}).get("examples", _MEASURED)
    scored = total if batches is None else batches * batch
    measured = examples or total
    forward = _forward_flops(json.dumps(run.network), shape)
    flops = 3 * forward * (scored + run.steps * batch) + 10 * 3 * forward * measured  # a row for each class
    return float(_SECONDS_PER_RUN + run.steps * _SECONDS_PER_STEP + flops / (_EFFICIENCY * _flops_per_second()))


@cache
def _forward_flops(network: str, shape: tuple[int, ...] | None) -> int:
    """Return the floating-point operations of a forward pass of one example; the backward pass takes twice as many.

    Args:
        network: the network's class_path and init_args as JSON, because one network serves thousands of runs.
        shape: the shape of the example; None if it is unknown, for which each weight counts once.
    """
    try:
        built = build(json.loads(network))
        if shape is not None:
            return 2 * sum(weight_macs(built, torch.empty(1, *shape, device="meta")).values())
        return 2 * sum(parameter.numel() for parameter in built.parameters())
    except Exception:  # of a network that cannot be built or run without values
        return 0


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
