"""The schedule of the sparsity of gradual pruning."""


def cubic(first: float, last: float, progress: float) -> float:
    """Return s_f + (s_i − s_f)(1 − (t − t₀)/(n Δt))³, the sparsity of Zhu & Gupta 2017.

    Args:
        first: the sparsity s_i at the beginning, t = t₀.
        last: the sparsity s_f at the last update, t = t₀ + n Δt.
        progress: (t − t₀)/(n Δt), in [0, 1].

    Example:
        >>> from spl.updates import cubic
        >>> [cubic(0.0, 0.8, progress) for progress in (0.0, 0.5, 1.0)]
        [0.0, 0.7, 0.8]
    """
    return last + (first - last) * (1 - progress) ** 3
