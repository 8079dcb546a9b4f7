"""The private names of torch that this package needs, gathered in one place; all were read in torch 2.14.1.

`torch._foreach_*` are not among them: they are documented, as "Foreach Operations".
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _format_target as _path_in_code
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd as DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd as AdaptiveAvgPoolNd
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd as AdaptiveMaxPoolNd
from torch.nn.modules.pooling import _AvgPoolNd as AvgPoolNd
from torch.nn.modules.pooling import _MaxPoolNd as MaxPoolNd
from torch.utils import _pytree

__all__ = [
    "COMPILED_PREFIX",
    "WRAPPER_PREFIXES",
    "AdaptiveAvgPoolNd",
    "AdaptiveMaxPoolNd",
    "AvgPoolNd",
    "BatchNorm",
    "ConvNd",
    "ConvTransposeNd",
    "DropoutNd",
    "MaxPoolNd",
    "NormBase",
    "compiled_module",
    "data_address",
    "forget_tracer",
    "function_class",
    "is_compiled",
    "is_lazy",
    "lazy_clone",
    "own",
    "parameter_table",
    "path_in_code",
    "submodule_table",
    "tree_leaves",
    "write_counts",
]

WRAPPER_PREFIXES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What FSDP and activation checkpointing put into the names of the parameters of modules that they wrap."""


COMPILED_PREFIX = "_orig_mod."
"""What `torch.compile(module)` puts before the names of the parameters of the module."""


def compiled_module(module: nn.Module) -> nn.Module | None:
    """Return the module that `torch.compile` was given when it returned `module`; None if it did not.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.torch_private import compiled_module
        >>> layer = nn.Linear(2, 1)
        >>> compiled_module(torch.compile(layer)) is layer, compiled_module(layer)
        (True, None)
    """
    if type(module).__name__ != "OptimizedModule":  # its class is in a module that takes long to import
        return None
    inner: nn.Module = module._orig_mod  # type: ignore[assignment]
    return inner


def write_counts(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often autograd has seen each tensor being written to in place.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import write_counts
        >>> weights = [torch.ones(2), torch.ones(2)]
        >>> _ = weights[1].mul_(2)
        >>> write_counts(weights)
        [0, 1]
    """
    return [tensor._version for tensor in tensors]


def lazy_clone(tensor: Tensor) -> Tensor | None:
    """Return a copy that shares its memory with `tensor` until either is written to; None where torch has no such copy.

    There is none of memory that torch does not own alone, such as shared memory and that of NumPy.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import data_address, lazy_clone
        >>> weight = torch.ones(2)
        >>> copy = lazy_clone(weight)
        >>> data_address(copy) == data_address(weight)
        True
        >>> _ = weight.mul_(2)
        >>> copy.tolist(), data_address(copy) == data_address(weight)
        ([1.0, 1.0], False)
    """
    try:
        copy: Tensor = torch._lazy_clone(tensor.detach())
        data_address(copy)
    except (RuntimeError, NotImplementedError):
        return None
    return copy


def data_address(tensor: Tensor) -> int:
    """Return where the content of a tensor lies in memory; unlike `data_ptr`, it lets a lazy copy share it further.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import data_address
        >>> weight = torch.ones(2)
        >>> data_address(weight) == weight.data_ptr()
        True
    """
    address: int = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    return address


def is_lazy(tensor: Tensor) -> bool:
    """Return whether a tensor shares its memory with a lazy copy; such memory cannot be resized.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import is_lazy, lazy_clone
        >>> weight = torch.ones(2)
        >>> copy = lazy_clone(weight)
        >>> is_lazy(weight)
        True
    """
    lazy: bool = torch._C._is_cow_tensor(tensor)  # type: ignore[attr-defined]
    return lazy


def own(tensor: Tensor) -> None:
    """Let a tensor own its memory again after its lazy copies are gone; while there are any, it gets a copy.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import is_lazy, lazy_clone, own
        >>> weight = torch.ones(2)
        >>> copy = lazy_clone(weight)
        >>> del copy
        >>> own(weight)
        >>> is_lazy(weight)
        False
    """
    if is_lazy(tensor):
        tensor.data_ptr()


def parameter_table(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the table in which a module itself keeps its own parameters by name; None for `bias=False`.

    Example:
        >>> from torch import nn
        >>> from spl.functional.torch_private import parameter_table
        >>> parameter_table(nn.Linear(2, 1, bias=False))["bias"] is None
        True
    """
    return module._parameters


def submodule_table(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the table in which a module itself keeps its direct submodules by name.

    Example:
        >>> from torch import nn
        >>> from spl.functional.torch_private import submodule_table
        >>> submodule_table(nn.Sequential(nn.ReLU()))
        {'0': ReLU()}
    """
    return module._modules


def is_compiled(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called on the module itself.

    Example:
        >>> from torch import nn
        >>> from spl.functional.torch_private import is_compiled
        >>> is_compiled(nn.Linear(2, 1))
        False
    """
    return module._compiled_call_impl is not None


def function_class(node: Any) -> type[torch.autograd.Function] | None:
    """Return the class of a `torch.autograd.Function` whose application is a node of autograd's graph; None for others.

    Example:
        >>> import torch
        >>> from spl.functional.torch_private import function_class
        >>> function_class(torch.ones(1, requires_grad=True).exp().grad_fn) is None
        True
    """
    return getattr(node, "_forward_cls", None)


def tree_leaves(tree: object) -> list[Any]:
    """Return what nested lists, tuples and dictionaries hold, as torch.export and torch.func take them apart.

    Example:
        >>> from spl.functional.torch_private import tree_leaves
        >>> tree_leaves({"a": 1, "b": [2, (3,)]})
        [1, 2, 3]
    """
    return _pytree.tree_leaves(tree)


def path_in_code(target: str) -> str:
    """Return how the code that torch.fx generates names the submodule `target`.

    Example:
        >>> from spl.functional.torch_private import path_in_code
        >>> path_in_code("features.0")
        'getattr(self.features, "0")'
    """
    return _path_in_code("self", target)


def forget_tracer(graph: fx.Graph) -> None:
    """Let a graph be unpickled by the usual tracer of torch.fx, not by the one that has made it.

    Example:
        >>> from torch import fx, nn
        >>> from spl.functional.torch_private import forget_tracer
        >>> graph = fx.Tracer().trace(nn.ReLU())
        >>> forget_tracer(graph)
        >>> fx.GraphModule(nn.ReLU(), graph)._tracer_cls is None
        True
    """
    graph._tracer_cls = None
