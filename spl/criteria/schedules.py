"""Schedules: how many weights are left after each round of pruning."""

import math
from abc import ABC, abstractmethod

from spl.errors import InputError

_MOST_ROUNDS = 10_000  # each of which scores anew; published schedules have at most a few hundred


class Schedule(ABC):
    """The rounds in which a network is pruned from all of its weights to those that are kept in the end.

    Args:
        rounds: their number.
    """

    def __init__(self, rounds: int) -> None:
        if not 1 <= rounds <= _MOST_ROUNDS:
            raise InputError(f"rounds must be at least 1 and at most {_MOST_ROUNDS}, got {rounds}.")
        self.rounds = rounds

    def keeps(self, size: int, keep: int) -> list[int]:
        """How many of `size` weights each round keeps: never more than the one before, and `keep` in the last."""
        density = keep / size
        rounds = [round(size * self.density(density, n / self.rounds)) for n in range(1, self.rounds)]
        return [*(max(kept, keep) for kept in rounds), keep]

    @abstractmethod
    def density(self, final: float, progress: float) -> float:
        """The share of weights left after a share `progress` of the rounds, `final` after the last."""


class OneShot(Schedule):
    """All at once."""

    def __init__(self) -> None:
        super().__init__(rounds=1)

    def density(self, final: float, progress: float) -> float:
        """The final density."""
        return final


class Exponential(Schedule):
    """ρ^{n/N}: each of N rounds keeps the same share of what the one before has left. Tanaka et al. 2020.

    Args:
        rounds: N.
    """

    def __init__(self, rounds: int = 100) -> None:
        super().__init__(rounds)

    def density(self, final: float, progress: float) -> float:
        """ρ to the power of the progress."""
        return math.exp(math.log(final) * progress)


class Linear(Schedule):
    """1 − (1 − ρ) n/N: each of N rounds removes the same number of weights.

    Args:
        rounds: N.
    """

    def __init__(self, rounds: int = 100) -> None:
        super().__init__(rounds)

    def density(self, final: float, progress: float) -> float:
        """From 1 to ρ in equal steps."""
        return 1.0 - (1.0 - final) * progress
