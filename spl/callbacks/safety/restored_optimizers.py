"""The check of optimizers and schedules after their state was restored from a checkpoint."""

import traceback
from collections.abc import Iterator
from typing import Any

from torch import Tensor, optim
from torch.optim import Optimizer

from spl.callbacks.safety.training_state import FLOATS
from spl.errors import InputError, first_line
from spl.lightning_api import Trainer

_OTHER_SHAPES = (optim.LBFGS, getattr(optim, "Adafactor", ()))  # whose state is not in the shapes of the weights


def check_restored(trainer: Trainer) -> None:
    """Raise an `InputError` if optimizers or schedules of a resumed fit cannot go on from what was restored.

    Lightning has loaded the state by now. PyTorch does not compare its shapes with those of the weights.
    """
    faults = [fault for optimizer in trainer.optimizers for fault in _faults(optimizer)]
    faults += [
        f"a schedule has a value in the place of the method {key}"
        for config in trainer.lr_scheduler_configs
        for key, value in vars(config.scheduler).items()
        if callable(getattr(type(config.scheduler), key, None)) and not callable(value)
    ]
    if faults:
        raise InputError(_message(f"{'; '.join(faults[:3])}"))


def refused(trainer: Trainer, error: BaseException) -> InputError | None:
    """Return the error that tells the user so if the first step of a resumed fit failed in an optimizer or schedule."""
    modules = {type(optimizer).__module__ for optimizer in trainer.optimizers}
    modules |= {type(config.scheduler).__module__ for config in trainer.lr_scheduler_configs}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if any(frame.f_globals.get("__name__") in modules for frame in frames) and not isinstance(error, InputError):
        return InputError(_message(f"{type(error).__name__}: {first_line(error)}"))
    return None


def _message(faults: str) -> str:
    return (
        f"Training cannot go on from the checkpoint ({faults}): it belongs to another configuration, or was changed "
        "after it was written. Use the config.yaml of its run, or give another checkpoint."
    )


def _faults(optimizer: Optimizer) -> Iterator[str]:
    yield from _group_faults(optimizer)
    if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, _OTHER_SHAPES):
        return
    memory: set[int] = set()
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, Tensor) or (value.ndim == 0 and key not in FLOATS):  # step, eta, mu_product, …
                continue
            if value.shape != parameter.shape:
                yield f"{key} of an optimizer has the shape {tuple(value.shape)}, its weight {tuple(parameter.shape)}"
            elif value.numel() and (_overlaps(value) or _address(value) in memory):
                yield f"numbers in {key} of an optimizer share memory"
            memory.add(_address(value))


def _group_faults(optimizer: Optimizer) -> Iterator[str]:
    for group in optimizer.param_groups:
        for key, default in optimizer.defaults.items():
            if key not in group and key == "differentiable":  # PyTorch adds it to the defaults when it restores them
                continue
            if key not in group:
                yield f"an optimizer has no {key}"
            elif not _alike(group[key], default):
                yield f"{key} of an optimizer is {ascii(group[key])[:60]}"


def _alike(value: Any, default: Any) -> bool:
    """Return whether a value can stand in the place of a default: both are numbers, or of one type, or one is None."""
    if value is None or default is None or isinstance(value, type(default)):
        return not isinstance(value, tuple) or len(value) == len(default)
    numbers = int | float | Tensor
    return isinstance(value, numbers) and isinstance(default, numbers)


def _overlaps(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size())
