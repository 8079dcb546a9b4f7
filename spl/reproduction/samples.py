"""Samples: one number of repeated runs, and whether two of them differ."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from spl.reproduction.results import Result


class MissingResult(LookupError):
    """That no finished run tells what is asked for; its text says what."""


@dataclass(frozen=True)
class Sample:
    """One number of repeated runs; formatted, mean ± standard deviation.

    Attributes:
        values: one a run; empty where none is finished.
        undefined: how many runs have none, because they diverged or were not measured.
    """

    values: tuple[float, ...]
    undefined: int = 0

    @classmethod
    def among(cls, numbers: Iterable[float]) -> "Sample":
        """Those of `numbers` that are numbers; NaN are counted apart."""
        everything = list(numbers)
        values = tuple(value for value in everything if not math.isnan(value))
        return cls(values, len(everything) - len(values))

    @classmethod
    def of(cls, results: Iterable[Result], number: Callable[[Result], float]) -> "Sample":
        """`number` of each result."""
        return cls.among(number(result) for result in results)

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """NaN of none."""
        return math.fsum(self.values) / self.n if self.n else math.nan

    @property
    def std(self) -> float:
        """Standard deviation with n − 1; NaN of fewer than two runs, and where a value is not finite."""
        return statistics.stdev(self.values) if self.n > 1 and math.isfinite(self.mean) else math.nan

    def __sub__(self, other: "Sample") -> "Difference":
        return Difference(self.mean - other.mean, math.hypot(_error(self), _error(other)))

    def __format__(self, spec: str) -> str:
        if not self.n:
            return "—"
        return f"{self.mean:{spec}}" + (f" ± {self.std:{spec}}" if math.isfinite(self.std) else "")


def _error(sample: Sample) -> float:
    """Standard error of the mean."""
    return sample.std / math.sqrt(sample.n) if sample.n else math.nan


@dataclass(frozen=True)
class Difference:
    """A difference of means, formatted with its standard error.

    Attributes:
        mean: of the one less that of the other; NaN where one has no run.
        error: its standard error, as of independent samples; NaN where one has fewer than two runs.
    """

    mean: float
    error: float

    @property
    def positive(self) -> bool | None:
        """Whether it is above 0, by more than two standard errors; None where it is within them."""
        if abs(self.mean) > 2 * self.error:
            return self.mean > 0
        return None

    def __sub__(self, other: "Difference") -> "Difference":
        return Difference(self.mean - other.mean, math.hypot(self.error, other.error))

    def __format__(self, spec: str) -> str:
        if math.isnan(self.mean):
            return "—"
        return f"{self.mean:+{spec}}" + ("" if math.isnan(self.error) else f" (s.e. {self.error:{spec}})")


def all_positive(differences: Iterable[Difference]) -> bool | None:
    """Whether all are above 0: no, where one is clearly below; None where one cannot be told and none is below."""
    signs = {difference.positive for difference in differences}
    return False if False in signs else None if None in signs else True


class Curve(dict[float, Sample]):
    """Samples in the order of an abscissa, without those that nothing was measured of.

    Args:
        what: it is of, for people.
        values: over seeds, by abscissa; NaN are left out.
    """

    def __init__(self, what: str, values: Mapping[float, Iterable[float]]) -> None:
        samples = {x: Sample.among(values[x]) for x in sorted(values)}
        super().__init__({x: sample for x, sample in samples.items() if sample.n})
        self.what = what

    def __missing__(self, x: float) -> Sample:
        raise MissingResult(f"{self.what} at {x:g}")

    @property
    def x(self) -> np.ndarray:
        """The abscissae [k]."""
        return np.array(list(self))

    @property
    def mean(self) -> np.ndarray:
        """The means [k]."""
        return np.array([sample.mean for sample in self.values()])

    @property
    def std(self) -> np.ndarray:
        """The standard deviations [k], NaN where there are none."""
        return np.array([sample.std for sample in self.values()])


def describe(sample: Sample) -> str:
    """Mean ± standard deviation, and n."""
    undefined = f"; of {sample.undefined} not a number" if sample.undefined else ""
    return f"{sample:.3g} (n = {sample.n}{undefined})"
