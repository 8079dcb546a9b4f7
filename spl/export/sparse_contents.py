"""The check that the contents of a sparse weights file are complete, and the reading of one tensor in it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spl.errors import InputError

_KEYS = {"format", "names", "dense", "tied", "sparse"}
_PARTS = ("dense", "tied", "sparse")


def check_contents(contents: Mapping[str, Any]) -> None:
    """Raise an `InputError` unless each name is either dense, tied or sparse, and each tie leads to a tensor.

    Example:
        >>> import torch
        >>> from spl.export.sparse_contents import check_contents
        >>> check_contents({"names": ["w", "v"], "dense": {"w": torch.ones(2)}, "tied": {"v": "v"}, "sparse": {}})
        Traceback (most recent call last):
        spl.errors.InputError: The sparse weights file was changed after it was written (v is tied to 'v', which ...
    """
    names, parts = contents.get("names"), [contents.get(part) for part in _PARTS]
    if unknown := contents.keys() - _KEYS:
        raise _changed(f"it has {sorted(map(str, unknown))!a}")
    if type(names) is not list or any(type(name) is not str for name in names):
        raise _changed("its names are no list of strings")
    if any(type(part) is not dict for part in parts):
        raise _changed(f"one of {', '.join(_PARTS)} is no dictionary")
    held = [name for part in parts for name in part]  # type: ignore[union-attr]
    if len(set(names)) < len(names) or len(set(held)) < len(held):
        raise _changed("a name stands in it twice")
    if different := set(names) ^ set(held):
        raise _changed(f"its names are not those of its tensors: {sorted(map(str, different))[:3]!a}")
    for name, owner in contents["tied"].items():
        if type(owner) is not str or not (
            isinstance(contents["dense"].get(owner), Tensor) or owner in contents["sparse"]
        ):
            raise _changed(f"{name} is tied to {ascii(owner)[:60]}, which is no tensor of its own")
    for name, value in contents["dense"].items():
        if isinstance(value, Tensor) and not _is_stored(value):
            raise _changed(f"the tensor {name} has no numbers in the file")


def unpack(name: str, packed: Any) -> Tensor:
    """Return one tensor of the network from its kept values and their places.

    Args:
        name: the name of the tensor, for messages.
        packed: shape, places and values, as `save_sparse` writes them.

    Raises:
        InputError: they do not fit each other.

    Example:
        >>> import torch
        >>> from spl.export.sparse_contents import unpack
        >>> places = torch.tensor([0b01000001], dtype=torch.uint8)
        >>> unpack("w", {"shape": [2, 4], "places": places, "values": torch.tensor([2.0, 3.0])})
        tensor([[0., 2., 0., 0.],
                [0., 0., 0., 3.]])
    """
    if type(packed) is not dict or packed.keys() != {"shape", "places", "values"}:
        raise _changed(f"{name} has no shape, places and values, or more than these")
    shape, places, values = packed["shape"], packed["places"], packed["values"]
    if type(shape) is not list or any(type(size) is not int or size < 0 for size in shape):
        raise _changed(f"the shape of {name} is {ascii(shape)[:60]}")
    if not (_is_line(places) and places.dtype == torch.uint8 and _is_line(values)):
        raise _changed(f"places and values of {name} are not lists of numbers")
    size = math.prod(shape)
    if len(places) != -(-size // 8):
        raise _damaged(name, 8 * len(places), len(values), size)
    bits = np.unpackbits(places.numpy())
    if (kept := int(bits.sum())) != len(values) or bits[size:].any():
        raise _damaged(name, kept, len(values), size)
    weight = torch.zeros(shape, dtype=values.dtype)
    weight[torch.from_numpy(bits[:size]).bool().view(shape)] = values
    return weight


def _is_line(value: Any) -> bool:
    """Return whether a value is a row of numbers, none of which stands for several by a stride of 0."""
    return isinstance(value, Tensor) and value.ndim == 1 and _is_stored(value) and value.is_contiguous()


def _is_stored(tensor: Tensor) -> bool:
    """Return whether a tensor is plain numbers in memory."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _changed(fault: str) -> InputError:
    return InputError(f"The sparse weights file was changed after it was written ({fault}): export it again.")


def _damaged(name: str, places: int, values: int, size: int) -> InputError:
    return InputError(
        f"The file has {places} places and {values} values for the {size} weights of {name}: it is damaged, export it "
        "again."
    )
