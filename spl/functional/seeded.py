"""Random draws that leave the global stream alone and are the same on every device."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def cpu_copy(network: nn.Module) -> nn.Module:
    """Copy a network to the CPU in contiguous format, so that random draws do not depend on its device and format."""
    twin: nn.Module = copy.deepcopy(network).to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return twin


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the CPU's global random stream at `seed` inside the context, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        yield
