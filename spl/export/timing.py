"""The times of single layers, by which an export decides how each of them is computed."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from spl.functional.undisturbed import undisturbed

_LEAST_SECONDS = 0.1  # a layer is measured for at least this long,
_LEAST_CALLS = 5  # and called at least this often
_QUEUED = 10  # calls that are timed together on an accelerator, where the next is prepared while one is computed


def layer_inputs(network: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> dict[str, Tensor]:
    """Return the inputs of each layer that is called, those of the last call if it is called more than once.

    Args:
        network: the network that has the layers.
        layers: the layers, by name.
        example: one batch of inputs of the network.

    Example:
        >>> import torch
        >>> from spl.export.timing import layer_inputs
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> {name: inputs.shape for name, inputs in layer_inputs(network, {"1": network[1]}, torch.ones(5, 4)).items()}
        {'1': torch.Size([5, 3])}
    """
    read: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        return lambda _, inputs: read.update({name: inputs[0].detach()})

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    with undisturbed(network), torch.no_grad():
        network(example)
    for handle in handles:
        handle.remove()
    return read


def median_seconds(candidates: Sequence[Callable[[Tensor], object]], inputs: Tensor) -> list[float]:
    """Return each candidate's median time for a batch; calls alternate, so that noise hits all candidates alike.

    On an accelerator it is the time for each of many batches, one after the other.

    Example:
        >>> import torch
        >>> from spl.export.timing import median_seconds
        >>> linear = torch.nn.Linear(4, 2)
        >>> [seconds > 0 for seconds in median_seconds([linear], torch.ones(1, 4))]
        [True]
    """
    seconds: list[list[float]] = [[] for _ in candidates]
    with torch.no_grad():
        for candidate in candidates:
            candidate(inputs)
        while sum(map(sum, seconds)) < _LEAST_SECONDS or len(seconds[0]) < _LEAST_CALLS:
            for candidate, own in zip(candidates, seconds, strict=True):
                own.append(_call_seconds(candidate, inputs))
    return [median(own) for own in seconds]


def _call_seconds(candidate: Callable[[Tensor], object], inputs: Tensor) -> float:
    if not inputs.is_cuda:
        begin = time.perf_counter()
        candidate(inputs)
        return time.perf_counter() - begin
    torch.cuda.synchronize(inputs.device)
    begin = time.perf_counter()
    for _ in range(_QUEUED):
        candidate(inputs)
    torch.cuda.synchronize(inputs.device)
    return (time.perf_counter() - begin) / _QUEUED
