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

# fitted to VGG16, ResNet-20 and ResNet-32 on an H200, batch 128: steps of 7.6, 9.8 and 12.6 ms, of which the device
# computes for 2.3, 2.7 and 7.9 ms
_LAUNCH_SECONDS = 1.3e-4  # of a step, in which a process starts the kernels of a layer
_KERNEL_SECONDS = 3.5e-5  # of a step, which the kernels of a layer take in addition to the products
_EFFICIENCY_OF_ACCELERATORS = 2.0  # because convolutions round to TF32, and the product that is measured does not


@cache
def seconds(run: Run, sharing: int = 1) -> float:
    """Return the seconds of one process for scores, spectra and training, a guess within a factor of two.

    On an accelerator, the process and the device work at the same time, and the slower one decides how long a step
    takes. Processes that share a device start their kernels at the same time, but these wait for each other.

    Args:
        run: the run.
        sharing: the number of processes that share an accelerator.
    """
    config = run.config
    (total, shape), batch = training_examples(config), batch_size(config)
    batches, examples = config["pruning"].get("batches"), config.get("spectrum", {}).get("examples", _MEASURED)
    scored = total if batches is None else batches * batch
    measured = examples or total
    layers, forward = _size(json.dumps(run.network), shape)
    step = 3 * forward * batch
    before = 3 * forward * scored + 10 * 3 * forward * measured  # a row for each class
    if torch.cuda.is_available():
        rate = _EFFICIENCY_OF_ACCELERATORS * _flops_per_second()
        device = sharing * (_KERNEL_SECONDS * layers + step / rate)
        per_step = max(_LAUNCH_SECONDS * layers, device)
        before_training = sharing * before / rate
    else:
        rate = _EFFICIENCY * _flops_per_second()
        per_step, before_training = step / rate, before / rate
    return float(_SECONDS_PER_RUN + run.steps * (_SECONDS_PER_STEP + per_step) + before_training)


@cache
def _size(network: str, shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Return the number of layers, and the floating-point operations of a forward pass of one example.

    The backward pass takes twice as many. A layer is a module without modules in it.

    Args:
        network: the network's class_path and init_args as JSON, because one network serves thousands of runs.
        shape: the shape of the example; None if it is unknown, for which each weight counts once.
    """
    try:
        built = build(json.loads(network))
        layers = sum(1 for module in built.modules() if not any(module.children()))
        if shape is not None:
            return layers, 2 * sum(weight_macs(built, torch.empty(1, *shape, device="meta")).values())
        return layers, 2 * sum(parameter.numel() for parameter in built.parameters())
    except Exception:  # of a network that cannot be built or run without values
        return 0, 0


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
