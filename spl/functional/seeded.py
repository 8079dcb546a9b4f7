"""Random draws beside the global stream, the same on every device."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def cpu_copy(network: nn.Module) -> nn.Module:
    """A copy in which what is drawn does not depend on the device and memory format of `network`."""
    twin: nn.Module = copy.deepcopy(network).to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return twin


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the CPU's global stream begin at `seed`, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would start those of the GPUs anew
        yield
