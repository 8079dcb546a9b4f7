"""The check of what a checkpoint says of training: optimizers, schedules, counters, and the files of callbacks.

Lightning and PyTorch take these values as they are: a learning rate that is NaN trains to NaN, an optimizer state of
another shape is broadcast, a number in the place of a method ends in an error many steps later, and a path among the
best checkpoints is deleted when a better one comes.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from spl.callbacks.lightning_private import methods_of_progress
from spl.errors import InputError
from spl.files.checkpoint import is_count

FLOATS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "sum")
_COUNTS = ("ready", "started", "processed", "completed", "_batches_that_stepped")
_NUMBERS = ("gamma", "step_size", "factor", "T_max", "eta_min", "start_factor", "end_factor", "total_iters", "power")


def check_training_state(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Raise an `InputError` that names what training cannot go on from.

    Args:
        checkpoint: the contents of the file.
        path: the path of the file, for the message.

    Example:
        >>> from spl.callbacks.safety.training_state import check_training_state
        >>> groups = [{"lr": float("nan"), "params": [0]}]
        >>> check_training_state({"optimizer_states": [{"state": {}, "param_groups": groups}]}, "last.ckpt")
        Traceback (most recent call last):
        spl.errors.InputError: last.ckpt was changed after it was written: the optimizer's lr is nan...
    """
    faults = [
        *_loop_faults(checkpoint.get("loops", {}), "loops"),
        *(fault for state in checkpoint.get("optimizer_states", []) for fault in _optimizer_faults(state)),
        *(fault for state in checkpoint.get("lr_schedulers", []) for fault in _schedule_faults(state)),
        *(fault for state in checkpoint.get("callbacks", {}).values() for fault in _file_faults(state)),
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(
            f"{path} was changed after it was written: {', '.join(faults[:3])}{more}. Give another checkpoint."
        )


def _loop_faults(state: Any, name: str, counts: bool = False) -> Iterator[str]:
    """Yield what is wrong with the counters of a loop, which are below keys that end in `progress`."""
    if not isinstance(state, dict):
        if not (is_count(state) or isinstance(state, bool)):
            yield f"{name} is {_short(state)}, not a whole number from 0 to 2⁵³"
        return
    for key, value in state.items():
        below = counts or str(key).endswith("progress") or key == "_batches_that_stepped"
        if below and key in methods_of_progress():
            yield f"{name} has a value in the place of the method {key}"
        elif key in _COUNTS and isinstance(value, dict):
            yield f"{key} is {_short(value)}, not a whole number from 0 to 2⁵³"
        elif below or isinstance(value, dict):
            yield from _loop_faults(value, str(key), below)


def _optimizer_faults(state: Any) -> Iterator[str]:
    if not isinstance(state, dict):
        yield f"the state of an optimizer is {_short(state)}"
        return
    groups, values = state.get("param_groups", []), state.get("state", {})
    if not (isinstance(groups, list) and all(isinstance(group, dict) for group in groups)):
        yield "the groups of an optimizer are no dictionaries"
        return
    if not (isinstance(values, dict) and all(isinstance(value, dict) for value in values.values())):
        yield "the state of an optimizer is no dictionary by parameter"
        return
    trained = [number for group in groups for number in group.get("params", [])]
    if len(set(map(str, trained))) < len(trained) or values.keys() - set(map(_plain, trained)):
        yield "an optimizer has the state of a parameter that it does not train, or trains one twice"
    for group in groups:
        for key, value in group.items():
            if key in ("lr", "initial_lr") and not (_is_number(value) and 0 <= float(value) < math.inf):
                yield f"the optimizer's {key} is {_short(value)}"
            elif _has_nan(value):
                yield f"the optimizer's {key} is not a number"
    for number, entries in values.items():
        for key, value in entries.items():
            if key == "step" and not (_is_number(value) and 0 <= float(value) <= 2**53):
                yield f"the optimizer's step of parameter {number} is {_short(value)}"
            elif key in FLOATS and isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
                yield f"the optimizer's {key} of parameter {number} is {value.dtype}"


def _schedule_faults(state: Any) -> Iterator[str]:
    if not isinstance(state, dict):
        yield f"the state of a schedule is {_short(state)}"
        return
    for key, value in state.items():
        if callable(getattr(LRScheduler, str(key), None)) or key == "optimizer":
            yield f"a schedule has a value in the place of {key}"
        elif not _is_possible(key, value):
            yield f"the schedule's {key} is {_short(value)}"
        elif _has_nan(value):
            yield f"the schedule's {key} is not a number"


def _is_possible(key: str, value: Any) -> bool:
    """Return whether an attribute of a schedule can have this value."""
    if key in ("last_epoch", "_step_count"):
        return is_count(value) or value == -1
    if key in ("base_lrs", "_last_lr"):
        return isinstance(value, list) and all(_is_number(rate) and 0 <= float(rate) < math.inf for rate in value)
    return _is_number(value) or key not in _NUMBERS


def _file_faults(state: Any) -> Iterator[str]:
    """Yield the files that a ModelCheckpoint might delete although they are not in its folder."""
    if not isinstance(state, dict) or "best_k_models" not in state:
        return
    models, folder = state["best_k_models"], state.get("dirpath")
    if not (isinstance(models, dict) and isinstance(folder, str | None)):
        yield "the best checkpoints are no dictionary by path"
        return
    for key in ("kth_best_model_path", "last_model_path", "best_model_path", *models):
        file = key if key in models else state.get(key) or ""
        if not isinstance(file, str):
            yield f"{key} is {_short(file)}"
        elif file and not (_is_inside(file, folder) or (key == "best_model_path" and _is_plain(file))):
            yield f"{_short(file)} is no checkpoint in the run's folder"
    for key in ("best_model_score", "kth_value", "current_score"):
        if not (state.get(key) is None or _is_number(state[key])):
            yield f"{key} is {_short(state[key])}"
    if not all(map(_is_number, models.values())):
        yield "the scores of the best checkpoints are no numbers"


def _is_inside(file: str, folder: str | None) -> bool:
    """Return whether a file is in a folder, also after `..` in its path is followed."""
    if folder is None or ("://" in file and not file.startswith(folder)):
        return False
    return Path(os.path.normpath(folder)) in Path(os.path.normpath(file)).parents


def _is_plain(file: str) -> bool:
    """Return whether a path has `..` only at its beginning, as that of the best of an earlier folder may."""
    parts = Path(file).parts
    return "://" not in file and ".." not in parts[next((i for i, part in enumerate(parts) if part != ".."), 0) :]


def _plain(value: object) -> int | str:
    return value if isinstance(value, int | str) else ascii(value)


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_nan(value: object) -> bool:
    """Return whether a value, or one in a list of values, is NaN."""
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, float) and math.isnan(part) for part in parts)


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
