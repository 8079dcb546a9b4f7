"""Curves: statistics over seeds, by sparsity or iteration."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


class Missing(LookupError):
    """That no finished run tells what is asked for; its text says what."""


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: of the values.
        std: of the sample; NaN of one value.
        n: number of values.
    """

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float], what: str = "") -> "Statistic":
        """That of the values that are numbers; infinite ones are, and make an infinite mean.

        Raises:
            Missing: there are none of `what`.
        """
        numbers = np.array([value for value in values if not math.isnan(value)])
        if not len(numbers):
            raise Missing(what)
        with np.errstate(invalid="ignore"):  # the std of infinite values is NaN
            std = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
        return cls(float(numbers.mean()), std, len(numbers))

    def __str__(self) -> str:
        spread = "" if math.isnan(self.std) else f" ± {self.std:.2g}"
        return f"{self.mean:.3g}{spread} (n = {self.n})"


class Curve(dict[float, Statistic]):
    """Statistics in the order of an abscissa, without those that nothing was measured of.

    Args:
        what: it is of, for people.
        values: over seeds, by abscissa.
    """

    def __init__(self, what: str, values: Mapping[float, Iterable[float]]) -> None:
        numbers = {x: [value for value in values[x] if not math.isnan(value)] for x in sorted(values)}
        super().__init__({x: Statistic.of(found) for x, found in numbers.items() if found})
        self.what = what

    def __missing__(self, x: float) -> Statistic:
        raise Missing(f"{self.what} at {x:g}")

    @property
    def x(self) -> np.ndarray:
        """The abscissae [k]."""
        return np.array(list(self))

    @property
    def mean(self) -> np.ndarray:
        """The means [k]."""
        return np.array([statistic.mean for statistic in self.values()])

    @property
    def std(self) -> np.ndarray:
        """The standard deviations [k]."""
        return np.array([statistic.std for statistic in self.values()])
