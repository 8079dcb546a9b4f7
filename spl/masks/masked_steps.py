"""Masking of gradients before, and of weights after, the steps of whichever optimizers train a network."""

import weakref
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim import Optimizer

from spl.masks.binding import Binding
from spl.masks.masks import Masks
from spl.masks.optimizer_hooks import Arguments, listen
from spl.masks.remarks import warn

_BEFORE = "before an optimizer's step"


class Mover(Protocol):
    """An object that moves the masks while the network trains; see `spl.updates.MovingMasks`."""

    def before_masking(self, optimizer: Any) -> bool:
        """Move the masks if it is time, and return whether gradients may be masked now."""

    def begin_step(self, optimizer: Optimizer) -> None:
        """Take note of a step that begins."""

    def end_step(self, optimizer: Optimizer) -> None:
        """Count a step that was taken."""


class HeldMasks(Protocol):
    """The part of `MaskedWeights` that `MaskedSteps` uses."""

    masks: Masks | None
    gradients_masked: bool
    mover: Mover | None

    def acting(self) -> Binding | None:
        """Return the masks bound to the parameters, or None if they may not act now."""

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer trains weights that have masks."""

    def mask_gradients_(self, optimizer: Any = None) -> None:
        """Set the gradients of pruned weights to 0.0, after moving the masks if it is time."""

    def check(self, when: str) -> None:
        """Set pruned weights back to 0.0 if there is a trace of a write."""

    def keep(self, when: str, look: bool) -> bool:
        """Set pruned weights back to 0.0; with `look`, find out first whether any has moved, and return that."""


@dataclass
class _Seen:
    """The number of steps that an optimizer took, and whether they were seen to move pruned weights."""

    steps: int = 0
    moves: bool = False


class MaskedSteps:
    """A listener to the steps of all optimizers of the process, which acts on those that train the network.

    It listens until it is deleted.

    Args:
        held: the masks of the network.
    """

    def __init__(self, held: HeldMasks) -> None:
        self._held = weakref.ref(held)  # which owns this object; a traceback may keep this object for longer
        self._seen: weakref.WeakKeyDictionary[Optimizer, _Seen] = weakref.WeakKeyDictionary()
        listen(self)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Mask the gradients; if the step takes a closure, do so each time that the closure has computed them."""
        held = self._held()
        if held is None or not held.is_trained_by(optimizer):
            return None
        seen = self._seen.setdefault(optimizer, _Seen())
        if held.mover is not None:
            held.mover.begin_step(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._look_before(held, seen)
            held.mask_gradients_(optimizer)
            return None
        held.check(_BEFORE)

        def masking(*given: Any, **named: Any) -> Any:
            held.gradients_masked = False
            result = closure(*given, **named)
            self._look_before(held, seen)
            if not held.gradients_masked:  # Lightning's hook may have masked them, before clipping
                held.mask_gradients_(optimizer)
            return result

        return ((args[0], masking, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": masking})

    @staticmethod
    def _look_before(held: HeldMasks, seen: _Seen) -> None:
        """Set back what moved before a step, and look for it if `after_step` will look for what the optimizer moved."""
        if is_power_of_two(seen.steps + 1):
            held.keep(_BEFORE, look=True)
        else:
            held.check(_BEFORE)

    def after_step(self, optimizer: Optimizer) -> None:
        """Mask the weights if the optimizer moves pruned ones, or may because it is not one of PyTorch's own."""
        seen, held = self._seen.get(optimizer), self._held()
        if seen is None or held is None:
            return
        if held.mover is not None:
            held.mover.end_step(optimizer)
        if held.masks is None or not (binding := held.acting()):
            return
        seen.steps += 1
        if is_power_of_two(seen.steps) and not seen.moves and held.masks.revived(binding.parameters):
            warn(f"{type(optimizer).__name__} moves weights that have no gradient; pruned ones are set back to 0.0.")
            seen.moves = True
        if seen.moves or not type(optimizer).__module__.startswith("torch.optim."):
            binding.zero_()
        else:
            binding.note()


def is_power_of_two(count: int) -> bool:
    """Return whether a count is 1, 2, 4, 8, …"""
    return count & (count - 1) == 0
