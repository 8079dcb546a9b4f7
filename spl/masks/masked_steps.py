"""MaskedSteps: gradients are masked before, and weights after, the steps of whichever optimizer trains a network."""

import warnings
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist
from torch.optim import Optimizer

from spl.masks.binding import Binding
from spl.masks.masks import Masks
from spl.masks.optimizer_hooks import Arguments, listen

_BEFORE = "before an optimizer's step"


class HeldMasks(Protocol):
    """What steps ask of `MaskedWeights`."""

    masks: Masks | None
    gradients_masked: bool

    def acting(self) -> Binding | None:
        """Return the masks bound to the parameters, if they may act."""

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Return whether masks act on what the optimizer trains."""

    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0.0."""

    def check(self, when: str) -> None:
        """Undo what has left a trace."""

    def keep(self, when: str, look: bool) -> bool:
        """Undo what was done, and look for it if asked to."""


@dataclass
class _Seen:
    """What was seen of an optimizer: how many steps it took, and whether they move pruned weights."""

    steps: int = 0
    moves: bool = False


class MaskedSteps:
    """Listens to all optimizers of the process for as long as it lives, and acts on those that train the network.

    Args:
        held: the masks of the network.
    """

    def __init__(self, held: HeldMasks) -> None:
        self._held: HeldMasks = weakref.proxy(held)  # which owns this
        self._seen: weakref.WeakKeyDictionary[Optimizer, _Seen] = weakref.WeakKeyDictionary()
        listen(self)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Mask the gradients; of a step that takes a closure, whenever the closure has computed them."""
        held = self._held
        if not held.is_trained_by(optimizer):
            return None
        seen = self._seen.setdefault(optimizer, _Seen())
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._look_before(seen)
            held.mask_gradients_()
            return None
        held.check(_BEFORE)

        def masking(*given: Any, **named: Any) -> Any:
            held.gradients_masked = False
            result = closure(*given, **named)
            self._look_before(seen)
            if not held.gradients_masked:  # as Lightning's hook has done, before it clips them
                held.mask_gradients_()
            return result

        return ((args[0], masking, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": masking})

    def _look_before(self, seen: _Seen) -> None:
        """Undo what was done before a step, and look for it where `after_step` looks for what the optimizer does."""
        if is_due(seen.steps + 1):
            self._held.keep(_BEFORE, look=True)
        else:
            self._held.check(_BEFORE)

    def after_step(self, optimizer: Optimizer) -> None:
        """Mask the weights after optimizers that move pruned ones, or may: those that are not PyTorch's own."""
        seen, masks = self._seen.get(optimizer), self._held.masks
        if seen is None or masks is None or not (binding := self._held.acting()):
            return
        seen.steps += 1
        if is_due(seen.steps) and not seen.moves and masks.revived(binding.parameters):
            warn(f"{type(optimizer).__name__} moves weights that have no gradient; pruned ones are set back to 0.0.")
            seen.moves = True
        if seen.moves or not type(optimizer).__module__.startswith("torch.optim."):
            binding.zero_()
        else:
            binding.note()


def is_due(count: int) -> bool:
    """Return whether a count is 1, 2, 4, 8, …"""
    return count & (count - 1) == 0


def warn(message: str) -> None:
    """Warn, of several processes on the first alone."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0):
        warnings.warn(message, stacklevel=4)
