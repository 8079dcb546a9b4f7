"""Weights from a checkpoint: whether they fit a network, and how they are loaded into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spl.errors import InputError
from spl.files import read_checkpoint

_PREFIX = "network."  # of the network's weights in a SparseClassifier


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Load the weights that a checkpoint of the spl command has for its network into `network`.

    Raises:
        InputError: the checkpoint is not whole, or is of another network.
    """
    state = read_checkpoint(path)["state_dict"]
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    check_state_fits(weights, network, path)
    network.load_state_dict(weights)


def check_state_fits(state: Mapping[str, Tensor], module: nn.Module, source: str | Path) -> None:
    """Raise an `InputError` that names every entry of `state` which does not fit an entry of `module`.

    Names and shapes must be the same, and the kinds of numbers: floating point (in any precision), complex or whole.

    Args:
        state: what would be loaded, by name.
        module: the module to load it into.
        source: where it comes from, for the message.
    """
    own = module.state_dict()
    wrong = [
        f"{name} ({_difference(state[name], tensor) if name in state else f'absent, wanted {_shape(tensor)}'})"
        for name, tensor in own.items()
        if name not in state or _form(state[name]) != _form(tensor)
    ]
    wrong += [f"{name} (not wanted)" for name in state if name not in own]
    if wrong:
        raise InputError(
            f"{source} does not fit the network: {', '.join(wrong)}. Use the network that it was made with: the "
            "config.yaml of its run names it."
        )


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, or the name of the type of anything else, which an edited checkpoint may have."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _form(value: Any) -> tuple[Any, ...]:
    """Return what must be equal of two values of which one replaces the other."""
    return (_shape(value), *(_kind(value) if isinstance(value, Tensor) else ()))


def _kind(tensor: Tensor) -> tuple[str, ...]:
    number = "complex" if tensor.is_complex() else "floating point" if tensor.is_floating_point() else "whole"
    stored = [] if tensor.layout == torch.strided else [str(tensor.layout)]
    return (f"{number} numbers", *stored)


def _difference(value: Any, wanted: Tensor) -> str:
    """Return in words how a value differs from the tensor whose place it would take."""
    if _shape(value) != _shape(wanted):
        return f"{_shape(value)}, wanted {_shape(wanted)}"
    return f"{', '.join(_kind(value))}, wanted {', '.join(_kind(wanted))}"
