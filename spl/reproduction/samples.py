"""Samples of a number over repeated runs, whether two of them differ, and curves of samples."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from spl.reproduction.results import Result

_POINTS = 100  # the most points of a training log


class MissingResult(LookupError):
    """No finished run has the result that is needed; the message names the result."""


@dataclass(frozen=True)
class Sample:
    """The values of one number over repeated runs; it is formatted as mean ± standard deviation.

    Attributes:
        values: one value per run; empty if no run is finished.
        undefined: the number of runs without a value, because they diverged or were not measured.
    """

    values: tuple[float, ...]
    undefined: int = 0

    @classmethod
    def among(cls, numbers: Iterable[float]) -> "Sample":
        """Make a sample of those `numbers` that are not NaN, and count the NaN as undefined."""
        everything = list(numbers)
        values = tuple(value for value in everything if not math.isnan(value))
        return cls(values, len(everything) - len(values))

    @classmethod
    def of(cls, results: Iterable[Result], number: Callable[[Result], float]) -> "Sample":
        """Make a sample of the `number` of each result."""
        return cls.among(number(result) for result in results)

    @property
    def n(self) -> int:
        """The number of runs with a value."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        return math.fsum(self.values) / self.n if self.n else math.nan

    @property
    def std(self) -> float:
        """The standard deviation with n − 1; NaN with fewer than two values or if a value is not finite."""
        return statistics.stdev(self.values) if self.n > 1 and math.isfinite(self.mean) else math.nan

    def __sub__(self, other: "Sample") -> "Difference":
        return Difference(self.mean - other.mean, math.hypot(_error(self), _error(other)))

    def __format__(self, spec: str) -> str:
        if not self.n:
            return "—"
        return f"{self.mean:{spec}}" + (f" ± {self.std:{spec}}" if math.isfinite(self.std) else "")


def _error(sample: Sample) -> float:
    """Return the standard error of the mean."""
    return sample.std / math.sqrt(sample.n) if sample.n else math.nan


@dataclass(frozen=True)
class Difference:
    """A difference of two means; it is formatted with its standard error.

    Attributes:
        mean: the difference; NaN if one of the samples has no value.
        error: the standard error for independent samples; NaN if one of them has fewer than two values.
    """

    mean: float
    error: float

    @property
    def positive(self) -> bool | None:
        """Whether the difference is above 0 (or below) by more than two standard errors; None within them."""
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
    """Return whether all differences are above 0: False if one is below, None if none is below but one is unclear."""
    signs = {difference.positive for difference in differences}
    return False if False in signs else None if None in signs else True


class Curve(dict[float, Sample]):
    """Samples over seeds by sparsity or iteration, in ascending order and without the empty ones.

    Args:
        what: what was measured, in words.
        values: the values over seeds, by sparsity or iteration; NaN are left out.
    """

    def __init__(self, what: str, values: Mapping[float, Iterable[float]]) -> None:
        samples = {x: Sample.among(values[x]) for x in sorted(values)}
        super().__init__({x: sample for x, sample in samples.items() if sample.n})
        self.what = what

    def __missing__(self, x: float) -> Sample:
        raise MissingResult(f"{self.what} at {x:g}")

    @property
    def x(self) -> np.ndarray:
        """The sparsities or iterations [k]."""
        return np.array(list(self))

    @property
    def mean(self) -> np.ndarray:
        """The means [k]."""
        return np.array([sample.mean for sample in self.values()])

    @property
    def std(self) -> np.ndarray:
        """The standard deviations [k]; NaN for samples of one value."""
        return np.array([sample.std for sample in self.values()])


def describe(sample: Sample) -> str:
    """Return mean ± standard deviation and n in words."""
    undefined = f"; {sample.undefined} not a number" if sample.undefined else ""
    return f"{sample:.3g} (n = {sample.n}{undefined})"


def windows(steps: np.ndarray, values: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the iterations at which at most 100 windows end, and the means over these; step k ends iteration k + 1."""
    if not len(steps):
        return [], []
    parts = np.array_split(np.arange(len(steps)), min(_POINTS, len(steps)))
    return [float(steps[part[-1]] + 1) for part in parts], [float(values[part].mean()) for part in parts]
