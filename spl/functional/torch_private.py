"""The private names of torch that this package needs, gathered in one place; all were read in torch 2.14.1.

`torch._foreach_*` are not among them: they are documented, as "Foreach Operations".
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
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
    "is_compiled",
    "parameter_table",
    "submodule_table",
    "tree_leaves",
    "write_counts",
]

WRAPPER_PREFIXES = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What FSDP and activation checkpointing put into the names of the parameters of modules that they wrap."""


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


def tree_leaves(tree: object) -> list[Any]:
    """Return what nested lists, tuples and dictionaries hold, as torch.export and torch.func take them apart.

    Example:
        >>> from spl.functional.torch_private import tree_leaves
        >>> tree_leaves({"a": 1, "b": [2, (3,)]})
        [1, 2, 3]
    """
    return _pytree.tree_leaves(tree)
