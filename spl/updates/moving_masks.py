"""Masks that move while a network trains, in any loop."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.seeded import seeded
from spl.functional.seeds import derived_seed
from spl.masks.binding import ids_of
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.masks.sharding import is_sharded
from spl.updates.isometric_start import isometric_starts
from spl.updates.optimizer_state import clear_state
from spl.updates.saved_state import check_state
from spl.updates.update import Snapshot, Update


class MovingMasks:
    """The masks of a network, moved by an update every so many steps of the optimizer that trains it.

    The object listens to the optimizer as `MaskedWeights` does. When t steps have been taken, t is a multiple of
    `update.every` and at most the share `update.until` of all steps, the masks move right before the next step: after
    the backward passes, the reduction over processes and the unscaling of mixed precision, and before clipping and the
    masking of gradients. So the update sees the gradients of pruned weights too. Then the gradients are masked by the
    new masks, and the step is taken. (The published RigL skips it.)

    Weights that grow start at 0, unless `isometric` is set. What the optimizer remembers of weights that come or go is
    set to 0; a warning names what cannot be, such as factored moments (Adafactor). If gradients or weights are not
    finite, the update waits for the next step. Steps that a GradScaler skips do not count.

    Keep the object, or `held`, for as long as the network is trained, and save and load its `state_dict` with that of
    `held`. A run that is resumed is bit for bit the one that was not interrupted.

    Args:
        held: the masks, which must be held already.
        update: what moves them: `SET`, `RigL`, `GMP` or an `Update` of your own.
        steps: the number of all steps of the optimizer.
        seed: decides random growth, together with the number of the step.
        processes: the processes that train together; those after the first take its masks. Without it, equal gradients
            lead to equal masks.
        on_move: is called after the masks have moved.
        isometric: whether weights that grow start at values that keep their layer near isometry, instead of at 0; see
            `isometric_starts`.

    Attributes:
        step: the number of steps that the optimizer has taken.
        first: the masks at the beginning of the training.
        active: the weights that have been kept at any time.
        updates: the number of updates up to now.
        moved: the number of weights that the last update moved, which is the number of those that it dropped.

    Raises:
        InputError: no masks are held, weights are sharded, or the update cannot begin with these masks.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl import MaskedWeights, Masks, MovingMasks
        >>> from spl.updates import SET
        >>> layer = nn.Linear(4, 1, bias=False)
        >>> held = MaskedWeights(layer)
        >>> held.hold(Masks({"weight": torch.tensor([[True, True, False, False]])}))
        >>> moving = MovingMasks(held, SET(every=2, fraction=0.5), steps=5)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> for _ in range(5):
        ...     layer(torch.ones(1, 4)).sum().backward()
        ...     optimizer.step()
        >>> moving.updates, held.masks.kept
        (2, 2)
    """

    def __init__(
        self,
        held: MaskedWeights,
        update: Update,
        steps: int,
        seed: int = 0,
        processes: Processes = Processes(),
        on_move: Callable[[], None] = lambda: None,
        isometric: bool = False,
    ) -> None:
        if held.masks is None:
            raise InputError("There are no masks to move: hold masks first, held.hold(masks).")
        if sharded := [name for name, p in held.masks.own(held.parameters).items() if is_sharded(p)]:
            raise InputError(
                f"{', '.join(sharded)}: sharded over processes, and masks can only move where every process has the "
                "whole weights. Train with DistributedDataParallel, or with masks that rest."
            )
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}: it is the number of all steps of the optimizer.")
        update.check(held.masks)
        self.held = held
        self.update = update
        self.steps = steps
        self.seed = seed
        self.isometric = isometric
        self.step = 0
        self.first = self.active = held.masks
        self.updates = 0
        self.moved = 0
        self._processes = processes
        self._on_move = on_move
        self._postponed = False
        self._tried = -1  # the last step at which an update was made or postponed
        self._waiting = False  # whether one was postponed before the step began, which a GradScaler may skip
        self._running: weakref.ref[Optimizer] | None = None
        self._optimizer: weakref.ref[Optimizer] | None = None
        held.mover = self

    def stop(self) -> None:
        """Let the masks rest from here on."""
        if self.held.mover is self:
            self.held.mover = None

    @property
    def is_due(self) -> bool:
        """Whether the masks move before the next step."""
        return self._tried != self.step and (self._postponed or self.update.is_due(self.step, self.steps))

    def overlap(self) -> float:
        """Return the share of the kept weights that were kept by the first masks."""
        masks = self._masks
        return sum(int((mask & self.first[name]).count_nonzero()) for name, mask in masks.items()) / max(masks.kept, 1)

    def before_masking(self, optimizer: Any) -> bool:
        """Move the masks if it is time, and return whether gradients may be masked now.

        Args:
            optimizer: the optimizer that is about to take a step; None between steps, when gradients still gather.
        """
        if not self.is_due:
            return True
        if optimizer is None or not self.held.is_trained_by(optimizer):
            return False
        self._move(optimizer)
        return True

    def begin_step(self, optimizer: Optimizer) -> None:
        """Take note of a step that begins; those of optimizers that another one wraps are part of its step.

        Raises:
            InputError: another optimizer trains weights with masks too.
        """
        running = self._running() if self._running else None
        if running is not None:
            return
        if self._waiting:
            self._tried, self._waiting = self.step, False
        last = self._optimizer() if self._optimizer else None
        if last is not None and last is not optimizer:
            raise InputError(
                f"{type(last).__name__} and another optimizer, {type(optimizer).__name__}, both train weights with "
                "masks, and masks move at the steps of one: give all of these weights to one optimizer, or leave those "
                "of the other dense by exclude. (If the first was replaced, delete it.)"
            )
        self._running = self._optimizer = weakref.ref(optimizer)

    def end_step(self, optimizer: Optimizer) -> None:
        """Count a step that was taken."""
        if self._running is not None and self._running() is optimizer:
            self._running = None
            self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs besides the masks and the state of the optimizer."""
        return {
            "step": self.step,
            "tried": self._tried,
            "postponed": self._postponed,
            "updates": self.updates,
            "moved": self.moved,
            "seed": self.seed,
            "first": dict(self.first),
            "active": dict(self.active),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned.

        Raises:
            InputError: it is of another network, or something else.
        """
        check_state(state)
        first, active = Masks(state["first"]), Masks(state["active"])
        for masks in (first, active):
            masks.check_fits(self.held.parameters)
        self.first, self.active = first, active
        self.step, self._tried, self._postponed = state["step"], state["tried"], state["postponed"]
        self.updates, self.moved, self.seed = state["updates"], state["moved"], state["seed"]

    @property
    def _masks(self) -> Masks:
        assert self.held.masks is not None
        return self.held.masks

    def _move(self, optimizer: Any) -> None:
        """Move the masks, or postpone the update."""
        binding = self.held.acting()
        if binding is None:
            return
        before, parameters = self._masks, binding.parameters
        with torch.no_grad():
            found = self._processes.from_first(self._found(before, parameters, optimizer))
        self._postponed = found is None
        self._waiting = found is None and self._running is None
        if not self._waiting:
            self._tried = self.step
        if found is None:
            return
        masks = Masks({**before, **found}).to("cpu")
        if set(masks) != set(before):
            unknown = ", ".join(set(masks) - set(before))
            raise InputError(
                f"{type(self.update).__name__} returned masks of {unknown}, which had none: leave them out."
            )
        masks.check_fits(parameters)
        changed = {name: mask ^ before[name] for name, mask in masks.items()}
        starts = isometric_starts(self.held.network, parameters, before, masks) if self.isometric else {}
        self.held.move(masks)
        for name, weight in starts.items():
            parameters[name].data.copy_(self._processes.from_first(weight.cpu()))
        clear_state(optimizer, {parameters[name]: mask for name, mask in changed.items() if mask.any()})
        self.active = Masks({name: mask | self.active[name] for name, mask in masks.items()})
        self.moved = sum(int((mask & before[name]).count_nonzero()) for name, mask in changed.items())
        self.updates += 1
        self._on_move()

    def _found(self, masks: Masks, parameters: Mapping[str, Tensor], optimizer: Any) -> dict[str, Tensor] | None:
        """Return the masks that the update finds, or None if there are numbers that are not finite."""
        weights = {name: p.detach() for name, p in parameters.items()}
        trained = ids_of(p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None and id(p) in trained}
        if not all(map(_is_finite, (*weights.values(), *gradients.values()))):
            return None
        end = self.update.last_step(self.steps)
        with seeded(derived_seed(self.seed, f"update {self.step}")):
            return dict(self.update.masks(Snapshot(masks, weights, gradients, self.first, self.step, end)))


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())  # a sum takes little time, but may overflow
