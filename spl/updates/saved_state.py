"""The state of masks that move, in a checkpoint."""

from collections.abc import Mapping
from typing import Any

from spl.errors import InputError
from spl.masks.masks import Masks


def check_state(state: Any) -> None:
    """Raise an `InputError` unless this is what `MovingMasks.state_dict` has returned.

    Example:
        >>> from spl.updates.saved_state import check_state
        >>> check_state({"step": 3})
        Traceback (most recent call last):
        spl.errors.InputError: This is not the state of masks that move: give what MovingMasks.state_dict() has ...
    """
    numbers = ("step", "tried", "postponed", "updates", "moved", "seed")
    is_state = isinstance(state, Mapping) and all(isinstance(state.get(name), int) for name in numbers)
    if not is_state or not all(isinstance(state.get(name), Mapping) for name in ("first", "active")):
        raise InputError("This is not the state of masks that move: give what MovingMasks.state_dict() has returned.")
    for name in ("first", "active"):
        Masks(state[name])
