"""Weights from a checkpoint: whether they fit a network, and how they are loaded into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Raise an `InputError` that names every entry of `state` which `module` does not have in this shape, or lacks.

    Args:
        state: what would be loaded, by name.
        module: the module to load it into.
        source: where it comes from, for the message.
    """
    own = module.state_dict()
    wrong = [
        f"{name} ({_shape(state[name]) if name in state else 'absent'}, wanted {_shape(tensor)})"
        for name, tensor in own.items()
        if name not in state or _shape(state[name]) != _shape(tensor)
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
