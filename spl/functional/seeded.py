"""Random draws that leave the global stream alone and are the same on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from spl.functional.held_objects import detached_copy


def cpu_copy(network: nn.Module) -> nn.Module:
    """Copy a network to the CPU in contiguous format, so that random draws do not depend on its device and format.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.seeded import cpu_copy
        >>> network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        >>> cpu_copy(network).weight.is_contiguous(), network.weight.is_contiguous()
        (True, False)
    """
    twin: nn.Module = detached_copy(network).to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return twin


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the CPU's global random stream at `seed` inside the context, and restore it afterwards.

    Example:
        >>> import torch
        >>> from spl.functional.seeded import seeded
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     print(torch.equal(torch.rand(3), first))
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
        yield
