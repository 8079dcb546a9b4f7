"""Sparsity, and the number of weights that it keeps."""

from spl.errors import InputError


def check_sparsity(sparsity: float) -> None:
    """Raise an `InputError` unless `sparsity` lies in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise InputError(
            f"sparsity must lie in [0, 1), got {sparsity}: it is the share of weights removed, 0.9 for 90 %."
        )


def keep_count(size: int, sparsity: float) -> int:
    """κ = round(m (1 − κ̄)), the number of weights kept of m = `size`.

    Raises:
        InputError: `sparsity` lies outside [0, 1), or keeps no weight at all.
    """
    check_sparsity(sparsity)
    keep = round(size * (1.0 - sparsity))
    if keep == 0:
        raise InputError(f"sparsity {sparsity} keeps none of {size} weights: at most {1 - 1 / size:.12g} keeps one.")
    return keep
