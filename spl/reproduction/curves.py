"""Curves: samples over seeds, by sparsity or iteration."""

from collections.abc import Iterable, Mapping

import numpy as np

from spl.reproduction.samples import Sample


class Missing(LookupError):
    """That no finished run tells what is asked for; its text says what."""


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
        raise Missing(f"{self.what} at {x:g}")

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


def told(sample: Sample) -> str:
    """Mean ± standard deviation, and n."""
    undefined = f"; of {sample.undefined} not a number" if sample.undefined else ""
    return f"{sample:.3g} (n = {sample.n}{undefined})"
