"""The base class of updates, and the snapshot of a training that an update sees."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning.pattern import Pattern


@dataclass(frozen=True)
class Snapshot:
    """What an update sees of a training, right before a step of the optimizer.

    Attributes:
        masks: the masks, on the CPU.
        weights: the weights by the names of the masks, on their device.
        gradients: the gradients of all weights, also of pruned ones, by the same names. Layers without a gradient, and
            those that the optimizer does not train, are left out.
        first: the masks at the beginning of the training.
        step: the number t of steps that the optimizer has taken before.
        end: the last step at which an update is due.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import Snapshot
        >>> masks = Masks({"weight": torch.tensor([True, False])})
        >>> now = Snapshot(masks, {"weight": torch.ones(2)}, {"weight": torch.zeros(2)}, first=masks, step=30, end=120)
        >>> now.progress
        0.25
    """

    masks: Masks
    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    first: Masks
    step: int
    end: int

    @property
    def progress(self) -> float:
        """The share of the steps up to the last update that have been taken, in [0, 1]."""
        return min(1.0, self.step / self.end) if self.end else 1.0


class Update(ABC):
    """A rule that finds the masks of the steps to come, every so many steps.

    An update of your own defines `masks`. Random numbers that it draws from the CPU's global stream are the same on all
    processes, and in a run that is resumed.

    Args:
        every: the number of steps between two updates.
        until: the share of all steps after which the masks rest.

    Raises:
        InputError: a number is out of range.

    Example:
        >>> from spl import Masks
        >>> from spl.updates import Update
        >>> class Roll(Update):
        ...     def masks(self, now):
        ...         return Masks({name: mask.roll(1, 0) for name, mask in now.masks.items()})
        >>> Roll(every=10, until=0.5).last_step(100)
        50
    """

    every: int = 100
    until: float = 0.75

    def __init__(self, every: int = every, until: float = until) -> None:
        if every < 1:
            raise InputError(f"every must be at least 1, got {every}: it is the number of steps between two updates.")
        if not 0.0 < until <= 1.0:
            raise InputError(f"until must lie in (0, 1], got {until}: it is a share of all steps.")
        self.every = every
        self.until = until

    @abstractmethod
    def masks(self, now: Snapshot) -> Masks:
        """Return the masks for the steps from this one on; layers that are left out keep theirs."""

    def check(self, masks: Masks) -> None:  # noqa: B027
        """Raise an `InputError` if a training cannot begin with these masks."""

    def check_pattern(self, pattern: Pattern) -> None:  # noqa: B027
        """Raise an `InputError` if the update would destroy the pattern of the masks."""

    def last_step(self, steps: int) -> int:
        """Return the last step at which an update may be due, in a training of so many steps."""
        return min(math.floor(self.until * steps + 1e-9), steps - 1)  # 0.29 · 100 is 28.999…

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether an update is due before the step that follows `step` others."""
        return 0 < step <= self.last_step(steps) and step % self.every == 0
