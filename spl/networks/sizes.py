"""Checks of the sizes that networks are asked to have."""

from spl.errors import InputError

_MOST_LAYERS = 10_000  # the depth of the deepest network that has been trained (Xiao et al. 2018)


def check_sizes(**sizes: int) -> None:
    """Raise an `InputError` that names the first size below 1.

    Example:
        >>> from spl.networks.sizes import check_sizes
        >>> check_sizes(depth=7, width=0)
        Traceback (most recent call last):
        spl.errors.InputError: width must be at least 1, got 0.
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, got {size}.")


def check_depth(layers: int, **sizes: int) -> None:
    """Raise an `InputError` that names the `sizes` if they make more layers than have ever been trained.

    Example:
        >>> from spl.networks.sizes import check_depth
        >>> check_depth(12002, blocks_per_stage=2000)
        Traceback (most recent call last):
        spl.errors.InputError: blocks_per_stage=2000 makes 12002 layers: ask for at most 10000, ...
    """
    if layers > _MOST_LAYERS:
        asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise InputError(
            f"{asked} makes {layers} layers: ask for at most {_MOST_LAYERS}, the depth of the deepest network that has "
            "been trained."
        )
