"""The sparse weights file: the kept weights and their places.

`torch.load(path, weights_only=True)` reads it as plain dictionaries, which `restored` turns into a state dict:

    {"format": "spl.sparse 1", "names": [...], "dense": {name: tensor}, "tied": {name: name},
     "sparse": {name: {"shape": [...], "places": uint8, "values": tensor}}}

Places are one bit per weight, in row-major order, with the first of eight in the highest bit of a byte. They take 1/32
of the bytes of dense float32 weights at any sparsity, and up to a sparsity of 96.9 % fewer bytes than an index per kept
weight.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spl.errors import InputError, first_line
from spl.export.sparse_contents import check_contents, unpack
from spl.files import read, serialized, write_whole
from spl.masks.masks import Masks

_FORMAT = "spl.sparse 1"


def save_sparse(path: str | Path, state_dict: Mapping[str, Any], masks: Masks) -> None:
    """Write a sparse weights file: the kept weights of masked tensors with their places, and everything else as it is.

    The file is written whole or not at all.

    Args:
        path: the file to write; an existing one is replaced.
        state_dict: the state dict of the network.
        masks: the masks, by the names of `state_dict`; weights must be 0 where their mask is False.

    Raises:
        InputError: a mask does not fit, a pruned weight is not 0, or `path` cannot be written.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import load_sparse, save_sparse
        >>> weight = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sparse(f"{folder}/weights.pt", {"weight": weight}, Masks({"weight": weight != 0}))
        ...     state_dict = load_sparse(f"{folder}/weights.pt")
        >>> state_dict
        {'weight': tensor([[0., 2.],
                [3., 0.]])}
    """
    write_whole(path, serialized(packed(state_dict, masks)))


def load_sparse(path: str | Path) -> dict[str, Any]:
    """Return the state dict that `save_sparse` wrote, bit for bit, on the CPU.

    Args:
        path: the file to read.

    Raises:
        InputError: the file does not exist, is damaged, or is not a sparse weights file.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import load_sparse, save_sparse
        >>> weight = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sparse(f"{folder}/weights.pt", {"weight": weight}, Masks({"weight": weight != 0}))
        ...     state_dict = load_sparse(f"{folder}/weights.pt")
        >>> torch.equal(state_dict["weight"], weight)
        True
    """
    return restored(read(path, "sparse weights file", "spl export --to sparse"))


def packed(state_dict: Mapping[str, Any], masks: Masks) -> dict[str, Any]:
    """Return the contents of a sparse weights file, dictionaries of plain tensors on the CPU; `restored` undoes it.

    Tensors that share memory, such as tied weights, are stored once, and share memory again after `restored`.

    Args:
        state_dict: the state dict of the network.
        masks: the masks, by the names of `state_dict`; weights must be 0 where their mask is False.

    Raises:
        InputError: a mask does not fit, or a pruned weight is not 0.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export.sparse_file import packed
        >>> weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0])
        >>> packed({"weight": weight}, Masks({"weight": weight != 0}))["sparse"]["weight"]
        {'shape': [8], 'places': tensor([65], dtype=torch.uint8), 'values': tensor([2., 3.])}
    """
    masks = masks.named_as(state_dict)
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
    """Return the plain state dict for the contents of a sparse weights file.

    Args:
        contents: the dictionary that `torch.load(path, weights_only=True)` reads from the file.

    Raises:
        InputError: the contents are not those of a sparse weights file, or its values and places disagree.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from spl import Masks
        >>> from spl.export import restored, save_sparse
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sparse(f"{folder}/weights.pt", {"weight": torch.ones(2)}, Masks({}))
        ...     contents = torch.load(f"{folder}/weights.pt", weights_only=True)
        >>> restored(contents)
        {'weight': tensor([1., 1.])}
    """
    kind = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
    if kind != _FORMAT:
        raise InputError(f"This is not a sparse weights file ({_FORMAT}) but {kind}: give one that save_sparse wrote.")
    check_contents(contents)
    try:
        known = contents["dense"] | {name: unpack(name, packed) for name, packed in contents["sparse"].items()}
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(
            f"The sparse weights file was changed after it was written ({type(error).__name__}: {first_line(error)}): "
            "export it again."
        ) from error
    return {name: known[contents["tied"].get(name, name)] for name in contents["names"]}


def _memory_key(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that is equal only for tensors that are the same numbers in the same memory."""
    empty = (id(tensor),) if tensor.numel() == 0 else ()
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device, *empty)


def _pack(weight: Tensor, mask: Tensor) -> dict[str, Any]:
    places = mask | weight.signbit()  # a pruned -0.0 equals 0.0, but its bits differ
    bits = np.packbits(places.contiguous().numpy())
    return {"shape": list(weight.shape), "places": torch.from_numpy(bits), "values": weight[places]}
