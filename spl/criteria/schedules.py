"""Schedules: the number of weights that are left after each round of pruning."""

import math
from abc import ABC, abstractmethod

from spl.errors import InputError

_MOST_ROUNDS = 10_000  # each round scores anew; published schedules have at most a few hundred


class Schedule(ABC):
    """The rounds in which a network is pruned from all of its weights to those that are kept in the end.

    Args:
        rounds: the number of rounds.

    Example:
        >>> from spl.criteria.schedules import Schedule
        >>> class Cubic(Schedule):
        ...     def density(self, final, progress):
        ...         return final + (1.0 - final) * (1.0 - progress) ** 3
        >>> Cubic(rounds=4).keeps(size=1000, keep=100)
        [480, 213, 114, 100]
    """

    def __init__(self, rounds: int) -> None:
        if not 1 <= rounds <= _MOST_ROUNDS:
            raise InputError(f"rounds must be at least 1 and at most {_MOST_ROUNDS}, got {rounds}.")
        self.rounds = rounds

    def keeps(self, size: int, keep: int) -> list[int]:
        """Return how many of `size` weights each round keeps: never more than the round before, and `keep` at last."""
        density = keep / size
        rounds = [round(size * self.density(density, n / self.rounds)) for n in range(1, self.rounds)]
        return [*(max(kept, keep) for kept in rounds), keep]

    @abstractmethod
    def density(self, final: float, progress: float) -> float:
        """Return the share of weights that are left after a share of the rounds.

        Args:
            final: ρ, the density after the last round.
            progress: n/N, the share of the rounds that are done.
        """


class OneShot(Schedule):
    """The schedule of one round, which prunes all weights at once.

    Example:
        >>> from spl.criteria.schedules import OneShot
        >>> OneShot().keeps(size=1000, keep=100)
        [100]
    """

    def __init__(self) -> None:
        super().__init__(rounds=1)

    def density(self, final: float, progress: float) -> float:
        """Return the final density."""
        return final


class Exponential(Schedule):
    """The density ρ^{n/N}: each of N rounds keeps the same share of the weights that are left. Tanaka et al. 2020.

    Args:
        rounds: N, the number of rounds.

    Example:
        >>> from spl.criteria.schedules import Exponential
        >>> Exponential(rounds=4).keeps(size=1000, keep=100)
        [562, 316, 178, 100]
    """

    def __init__(self, rounds: int = 100) -> None:
        super().__init__(rounds)

    def density(self, final: float, progress: float) -> float:
        """Return ρ to the power of the progress."""
        return math.exp(math.log(final) * progress)


class Linear(Schedule):
    """The density 1 − (1 − ρ) n/N: each of N rounds prunes the same number of weights.

    Args:
        rounds: N, the number of rounds.

    Example:
        >>> from spl.criteria.schedules import Linear
        >>> Linear(rounds=4).keeps(size=1000, keep=100)
        [775, 550, 325, 100]
    """

    def __init__(self, rounds: int = 100) -> None:
        super().__init__(rounds)

    def density(self, final: float, progress: float) -> float:
        """Return the density on the line from 1 to ρ."""
        return 1.0 - (1.0 - final) * progress
