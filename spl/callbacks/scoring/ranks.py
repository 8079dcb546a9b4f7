"""The processes of a Trainer, which score together and fail together."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed
from torch import Tensor

from spl.callbacks.scoring.batches import EvaluationBatches
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.lightning_api import Trainer

T = TypeVar("T")


class Ranks(Processes):
    """The processes of a Trainer.

    Args:
        trainer: the Trainer, whose strategy has joined the processes.
    """

    def __init__(self, trainer: Trainer) -> None:
        joined = torch.distributed.is_initialized()  # each scores by itself where torch does not join them
        self.rank, self.size = (trainer.global_rank, trainer.world_size) if joined else (0, 1)
        self._strategy = trainer.strategy
        self._parted = False

    def own(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return the batches of this process; where possible, the batches of others are not fetched."""
        if isinstance(loader, EvaluationBatches):
            return loader.of_process(self.rank, self.size)
        return super().own(loader)

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes.

        Raises:
            InputError, RuntimeError: another process failed; the message is its own.
        """
        self._meet()
        if self.size > 1:
            for work in [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def from_first(self, value: T) -> T:
        """Return the value that the first process gives."""
        return self._strategy.broadcast(value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let no process wait for one that fails inside: all fail where they next meet, with its message.

        Inside, processes meet only in `add_up_`, and all of them equally often.
        """
        try:
            yield
        except Exception as error:
            if not self._parted:
                self._meet(error)
            raise
        self._meet()

    def _meet(self, failure: Exception | None = None) -> None:
        """Tell the other processes of a failure, and raise that of the first one that has failed, if this has not."""
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
