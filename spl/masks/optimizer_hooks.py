"""Hooks on the steps of all optimizers of the process."""

import weakref
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those of a call of `step`, the optimizer first."""


class StepListener(Protocol):
    """Whoever wants to know of steps."""

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Act before a step, and return other arguments for it, or None."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Act after a step."""


def listen(listener: StepListener) -> None:
    """Tell `listener` of every step of every optimizer, whoever makes and calls it, for as long as `listener` lives.

    Optimizers tell of their steps if they are subclasses of `torch.optim.Optimizer`. One that wraps another without
    being one itself does not, but the other does.
    """
    reference = weakref.ref(listener)

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        alive = reference()
        return None if alive is None else alive.before_step(optimizer, args, kwargs)

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alive = reference()
        if alive is not None:
            alive.after_step(optimizer)

    untraced: Any = torch.compiler.disable  # a compiled step calls hooks instead of tracing what they do
    for handle in (
        register_optimizer_step_pre_hook(untraced(before)),
        register_optimizer_step_post_hook(untraced(after)),
    ):
        weakref.finalize(listener, handle.remove).atexit = False
