"""Ranks: the processes of a Trainer, which score together and fail together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.distributed
from pytorch_lightning import Trainer
from torch import Tensor

from spl.criteria import Processes
from spl.errors import InputError


class Ranks(Processes):
    """The processes of a Trainer.

    Args:
        trainer: whose strategy has joined them.
    """

    def __init__(self, trainer: Trainer) -> None:
        joined = torch.distributed.is_initialized()  # each scores by itself where torch does not join them
        self.rank, self.size = (trainer.global_rank, trainer.world_size) if joined else (0, 1)
        self._parted = False

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes.

        Raises:
            InputError, RuntimeError: another process failed; the message is its own.
        """
        self._meet()
        if self.size > 1:
            for work in [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let none wait for a process that fails inside: all fail, where they next meet, with its message.

        Inside, processes meet in `add_up_` alone, all equally often.
        """
        try:
            yield
        except Exception as error:
            if not self._parted:
                self._meet(error)
            raise
        self._meet()

    def _meet(self, failure: Exception | None = None) -> None:
        """Hear of each other's failures, and raise the first where this process has none."""
        if self.size == 1:
            return
        heard: list[tuple[bool, str] | None] = [None] * self.size
        own = None if failure is None else (isinstance(failure, InputError), str(failure))
        torch.distributed.all_gather_object(heard, own)
        for rank, one in enumerate(heard):
            if one is not None:
                self._parted = True
                if failure is None:
                    raise (InputError if one[0] else RuntimeError)(f"Process {rank} failed: {one[1]}")
