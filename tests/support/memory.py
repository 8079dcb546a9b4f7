"""The peak memory of tensors."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """A mode that counts the bytes of all storages that operations create, until they are freed.

    Attributes:
        peak: the largest number of bytes alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = _tensors((args, kwargs))
        given = {tensor.untyped_storage()._cdata for tensor in arguments}
        addresses = [torch._C._data_address(tensor) for tensor in arguments]
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if function is torch.ops.aten._lazy_clone.default:
                continue  # it shares the storage of its argument until one of them is written to
            if tensor.untyped_storage()._cdata not in given:  # a view of an argument needs no new storage
                self._count(tensor.untyped_storage())
        for tensor, address in zip(arguments, addresses, strict=True):
            if torch._C._data_address(tensor) != address:  # written to, and shared before
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            weakref.finalize(storage, self._live.pop, key, None)
            self.peak = max(self.peak, sum(self._live.values()))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
