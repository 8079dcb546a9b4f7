"""Checks of the sizes that networks are asked to have."""

from spl.errors import InputError

_MOST_LAYERS = 10_000  # the depth of the deepest network that has been trained (Xiao et al. 2018)


def check_sizes(**sizes: int) -> None:
    """Raise an `InputError` that names the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, got {size}.")


def check_depth(layers: int, **sizes: int) -> None:
    """Raise an `InputError` that names the `sizes` if they make more layers than have ever been trained."""
    if layers > _MOST_LAYERS:
        asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise InputError(
            f"{asked} makes {layers} layers: ask for at most {_MOST_LAYERS}, the depth of the deepest network that has "
            "been trained."
        )
