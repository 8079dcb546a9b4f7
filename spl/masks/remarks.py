"""Warnings about what moved pruned weights."""

import warnings
from collections.abc import Mapping

import torch.distributed as dist

_HOW = {
    "moved": "They were written to by something that is no optimizer's step, such as load_state_dict, "
    "reset_parameters, `.data`, or an optimizer that wraps another.",
    "replaced": "Another parameter has taken the place of a pruned one; optimizers that were made before do not train "
    "it.",
}


def warn_of_change(what: str, when: str, revived: Mapping[str, int]) -> None:
    """Warn of pruned weights that something other than an optimizer's step changed.

    Args:
        what: "moved" or "replaced".
        when: when they were found, in words.
        revived: the number of these weights in each layer.
    """
    counts = ", ".join(f"{name} ({count})" for name, count in revived.items())
    warn(f"Pruned weights were not 0.0 {when}, and are set back to 0.0: {counts}. {_HOW[what]}")


def warn(message: str) -> None:
    """Warn, on the first of several processes only."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0):
        warnings.warn(message, stacklevel=4)
