"""Random streams beside the global one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Let the CPU's global stream begin at `seeds`, and go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hash(seeds) % 2**63)  # of integers, a hash is always the same
        yield
