"""The sparse weights file: kept values and their places.

`torch.load(path, weights_only=True)` reads it as plain dictionaries, and `restored` makes a state dict of them:

    {"format": "spl.sparse 1", "names": [...], "dense": {name: tensor}, "tied": {name: name},
     "sparse": {name: {"shape": [...], "places": uint8, "values": tensor}}}

Places are one bit a weight, in row-major order, the first of eight in the highest bit of a byte: 1/32 of the dense
float32 weights whatever the sparsity, and fewer bytes than one index a kept weight up to a sparsity of 96.9 %.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spl.errors import InputError
from spl.files import read, serialized, write_whole
from spl.masks.masks import Masks

_FORMAT = "spl.sparse 1"


def save_sparse(path: str | Path, state_dict: Mapping[str, Any], masks: Masks) -> None:
    """Write the kept values of masked tensors, with their places, and everything else as it is.

    The file is written whole or not at all.

    Args:
        path: where to; a file that is there is replaced.
        state_dict: of the network.
        masks: by the names of `state_dict`; where they are False its weights must be 0.

    Raises:
        InputError: a mask does not fit, a pruned weight is not 0, or `path` cannot be written.
    """
    write_whole(path, serialized(packed(state_dict, masks)))


def load_sparse(path: str | Path) -> dict[str, Any]:
    """The state dict that `save_sparse` wrote, bit for bit, on the CPU.

    Raises:
        InputError: there is no such file, it is damaged, or it is no sparse weights file.
    """
    return restored(read(path, "file of weights", "spl export --to sparse"))


def packed(state_dict: Mapping[str, Any], masks: Masks) -> dict[str, Any]:
    """What the file has, as dictionaries of plain tensors on the CPU; `restored` undoes it.

    Tensors that share their memory, such as tied weights, are there once, and share it again when restored.

    Args:
        state_dict: of the network.
        masks: by the names of `state_dict`; where they are False its weights must be 0.

    Raises:
        InputError: a mask does not fit, or a pruned weight is not 0.
    """
    masks.check_fits(state_dict)
    if revived := masks.revived(state_dict):
        counts = ", ".join(f"{name} ({count})" for name, count in revived.items())
        raise InputError(f"Pruned weights are not 0: {counts}. Set them to 0 first: masks.apply_(state_dict).")
    owners = {_memory_key(state_dict[name]): name for name in masks}
    contents: dict[str, Any] = {"format": _FORMAT, "names": list(state_dict), "dense": {}, "tied": {}, "sparse": {}}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            contents["dense"][name] = value
        elif (owner := owners.setdefault(_memory_key(value), name)) != name:
            contents["tied"][name] = owner
        elif name in masks:
            contents["sparse"][name] = _pack(value.detach().cpu(), masks[name].cpu())
        else:
            contents["dense"][name] = value.detach().cpu()
    return contents


def restored(contents: Any) -> dict[str, Any]:
    """A plain state dict of what `torch.load(path, weights_only=True)` reads from a sparse weights file.

    Raises:
        InputError: it is no sparse weights file, or one whose values and places disagree.
    """
    kind = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
    if kind != _FORMAT:
        raise InputError(f"This is no sparse weights file ({_FORMAT}), but {kind}: give one that save_sparse wrote.")
    try:
        known = contents["dense"] | {name: _unpack(name, **packed) for name, packed in contents["sparse"].items()}
        return {name: known[contents["tied"].get(name, name)] for name in contents["names"]}
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The sparse weights file was changed after it was written ({type(error).__name__}: {error}): export it "
            "again."
        ) from error


def _memory_key(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same numbers in the same memory, and for no others."""
    empty = (id(tensor),) if tensor.numel() == 0 else ()
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device, *empty)


def _pack(weight: Tensor, mask: Tensor) -> dict[str, Any]:
    places = mask | weight.signbit()  # a pruned -0.0 is 0, but not bit for bit
    bits = np.packbits(places.contiguous().numpy())
    return {"shape": list(weight.shape), "places": torch.from_numpy(bits), "values": weight[places]}


def _unpack(name: str, shape: list[int], places: Tensor, values: Tensor) -> Tensor:
    size = math.prod(shape)
    bits = np.unpackbits(places.numpy(), count=min(size, 8 * len(places)))
    if len(bits) != size or int(bits.sum()) != len(values):
        raise InputError(
            f"{name} of {size} weights has {len(bits)} places, {int(bits.sum())} of them kept, for "
            f"{len(values)} values: the file is damaged, export it again."
        )
    weight = torch.zeros(shape, dtype=values.dtype)
    weight[torch.from_numpy(bits).bool().view(shape)] = values
    return weight
