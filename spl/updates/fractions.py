"""Schedules of the fraction of the kept weights that an update moves."""

import math
from collections.abc import Callable

Fraction = Callable[[float, float], float]
"""A function from the first fraction, and the progress in [0, 1], to the fraction at that time."""


def constant(first: float, progress: float) -> float:
    """Return the first fraction.

    Example:
        >>> from spl.updates import constant
        >>> constant(0.3, progress=0.5)
        0.3
    """
    return first


def cosine(first: float, progress: float) -> float:
    """Return α/2 (1 + cos(π t/T_end)), which falls from α to 0 at the last update (RigL, Evci et al. 2020).

    Example:
        >>> from spl.updates import cosine
        >>> cosine(0.3, progress=0.0), cosine(0.3, progress=0.5), cosine(0.3, progress=1.0)
        (0.3, 0.15, 0.0)
    """
    return first / 2 * (1 + math.cos(math.pi * progress))
