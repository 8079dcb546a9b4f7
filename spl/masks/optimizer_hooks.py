"""Hooks on the steps of all optimizers of the process."""

import weakref
from functools import cache
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of a call of `step`; the first is the optimizer."""


class StepListener(Protocol):
    """An object that is called before and after the steps of optimizers."""

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Act before a step, and return other arguments for it, or None to leave them as they are."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Act after a step."""


_listeners: "weakref.WeakSet[StepListener]" = weakref.WeakSet()


def listen(listener: StepListener) -> None:
    """Call `listener` at every step of every optimizer, whoever makes and calls it, until `listener` is deleted.

    This covers all subclasses of `torch.optim.Optimizer`. If an optimizer wraps another without being such a subclass
    itself, the steps of the wrapped one are covered.
    """
    _install_hooks()
    _listeners.add(listener)


@cache
def _install_hooks() -> None:
    """Install one pair of hooks for good: to remove any while an optimizer runs through its hooks would be an error."""
    untraced: Any = torch.compiler.disable  # a compiled step then calls the hooks instead of tracing them
    register_optimizer_step_pre_hook(untraced(_before))
    register_optimizer_step_post_hook(untraced(_after))


def _before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    for listener in list(_listeners):
        args, kwargs = listener.before_step(optimizer, args, kwargs) or (args, kwargs)
    return args, kwargs


def _after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for listener in list(_listeners):
        listener.after_step(optimizer)
