"""Everything that a run of a module may change, kept in order to be given back."""

import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spl.functional.held_objects import held_objects
from spl.functional.torch_private import data_address, is_lazy, lazy_clone, own, write_counts

_SMALL = 2**16
"""The number of elements up to which a tensor that is no parameter is copied at once."""

_LARGE = 2**20
"""The number of elements above which an array of NumPy is not kept."""


class ModuleState:
    """The state of a module and of all that its attributes hold, in order to give it back.

    It has the tables of parameters, buffers, submodules and hooks, the modes, and every other attribute: of the module,
    its submodules, and the plain Python objects, lists, dictionaries and sets that they hold. It has the content, the
    gradient and `requires_grad` of every tensor found there, and the states of random generators.

    The contents of parameters are kept by copies on write. They take memory only for parameters that are written to,
    also through `.data`. Small tensors that are no parameters, and tensors whose memory torch does not own, such as
    shared memory, are copied at once. After `close` no tensor shares its memory with a copy any more.

    Args:
        module: the module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.module_state import ModuleState
        >>> layer = nn.Linear(2, 2)
        >>> state = ModuleState(layer)
        >>> layer.bias.data.fill_(7.0)
        tensor([7., 7.])
        >>> layer.register_buffer("seen", torch.ones(1))
        >>> state.restore()
        >>> bool((layer.bias == 7.0).any()), hasattr(layer, "seen")
        (False, False)
    """

    def __init__(self, module: nn.Module) -> None:
        self._tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any] | deque[Any], list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._streams: list[Callable[[], object]] = []
        self._tensors: list[_TensorState] = []
        for item in held_objects(module):
            self._keep(item)

    def _keep(self, item: Any) -> None:
        if isinstance(item, dict):
            self._tables.append((item, dict(item)))
        elif isinstance(item, Tensor):
            if item.is_meta:  # it has no content
                return
            with suppress(RuntimeError, NotImplementedError, ValueError):  # lazy parameters have no content
                self._tensors.append(_TensorState.of(item))
        elif isinstance(item, list | deque):
            self._lists.append((item, list(item)))
        elif isinstance(item, set):
            self._sets.append((item, set(item)))
        elif isinstance(item, np.ndarray):
            if item.size <= _LARGE and item.flags.writeable:
                self._arrays.append((item, item.copy()))
        elif isinstance(item, torch.Generator):
            self._streams.append(partial(item.set_state, item.get_state()))
        elif isinstance(item, random.Random):
            self._streams.append(partial(item.setstate, item.getstate()))
        elif isinstance(item, np.random.Generator):
            self._streams.append(partial(setattr, item.bit_generator, "state", item.bit_generator.state))

    def restore(self) -> None:
        """Give everything back."""
        self.restore_attributes()
        self.restore_tensors()

    def restore_attributes(self) -> None:
        """Give attributes, tables, lists and random generators back, but not the contents of tensors."""
        for table, entries in self._tables:
            if list(table) != list(entries):
                table.clear()
                table.update(entries)
            elif any(map(is_not, table.values(), entries.values())):
                for key, value in entries.items():
                    table[key] = value
        for items, held in self._lists:
            if len(items) != len(held) or any(a is not b for a, b in zip(items, held, strict=True)):
                items.clear()
                items.extend(held)
        for members, kept in self._sets:
            if members != kept:
                members.clear()
                members.update(kept)
        for array, content in self._arrays:
            array[...] = content
        for give_back in self._streams:
            give_back()

    @torch.no_grad()
    def restore_tensors(self) -> None:
        """Give tensors their contents, gradients and `requires_grad` back; one that did not change is not touched."""
        for state in self._tensors:
            state.restore()

    def note_writes(self) -> None:
        """Let `restore_tensors` give back what was written until now, and spare tensors that are written to later."""
        for state in self._tensors:
            state.noted = _writes(state.tensor)

    def close(self) -> None:
        """Drop the copies, after which nothing can be restored."""
        owners = [state.tensor for state in self._tensors if state.to_own]
        self._tensors.clear()
        for tensor in owners:
            own(tensor)


@dataclass
class _TensorState:
    """The state of a tensor."""

    tensor: Tensor
    content: Tensor
    lazily: bool
    to_own: bool
    writes: int
    is_leaf: bool
    requires_grad: bool
    grad: Tensor | None
    noted: int | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> "_TensorState":
        was_lazy = is_lazy(tensor)
        content = None  # memory that is shared cannot be resized, which buffers may be
        if isinstance(tensor, nn.Parameter) or tensor.numel() > _SMALL:
            content = lazy_clone(tensor)
        lazily = content is not None
        if content is None:
            content = tensor.detach().clone()
        grad = tensor.grad if tensor.is_leaf else None
        writes = _writes(tensor)
        return cls(tensor, content, lazily, lazily and not was_lazy, writes, tensor.is_leaf, tensor.requires_grad, grad)

    def restore(self) -> None:
        tensor = self.tensor
        if (self.noted is None or self.noted == _writes(tensor)) and self._is_written():
            self._copy_back()
        if not self.is_leaf:
            return
        if not tensor.is_leaf:
            with suppress(RuntimeError):  # a view stays what it is
                tensor.detach_()
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad

    def _is_written(self) -> bool:
        tensor, content = self.tensor, self.content
        if _layout(tensor) != _layout(content):
            return True
        if self.lazily:
            return data_address(tensor) != data_address(content)
        return self.writes != _writes(tensor) or not torch.equal(tensor, content)

    def _copy_back(self) -> None:
        if _layout(self.tensor) != _layout(self.content):
            self.tensor.data = self.content.clone()
        elif self.tensor.is_inference():
            with torch.inference_mode():
                self.tensor.copy_(self.content)
        else:
            self.tensor.detach().copy_(self.content)


def constant(tensor: Tensor) -> Tensor:
    """Return a detached copy of a tensor, which takes memory only when one of the two is written to, where possible.

    Example:
        >>> import torch
        >>> from spl.functional.module_state import constant
        >>> weight = torch.ones(2)
        >>> copy = constant(weight)
        >>> _ = weight.zero_()
        >>> copy
        tensor([1., 1.])
    """
    lazy = lazy_clone(tensor)
    return tensor.detach().clone() if lazy is None else lazy


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else write_counts([tensor])[0]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    strides = tensor.stride() if tensor.layout is torch.strided else None
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout, strides
