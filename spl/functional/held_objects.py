"""The objects that a module holds through its attributes, and copies of modules that hold activations."""

import copy
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "pytorch_lightning", "lightning", "lightning_fabric", "spl"}
"""The packages whose objects are not looked into, unless they are modules: a Trainer, datasets, optimizers."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Objects that hold nothing and cannot be changed; most attributes of modules are such."""

_CONTAINERS = (dict, list, deque, set, tuple, frozenset)
_CONTENTS = (np.ndarray, torch.Generator, random.Random, np.random.Generator)

_MANY = 10_000
"""The number of items above which a container is kept as it is, but not what its items hold."""


def held_objects(module: nn.Module) -> Iterator[Any]:
    """Return the tensors, arrays, containers, attribute tables and random generators that a module holds, each once.

    Plain Python objects, lists, tuples, dictionaries, sets and other modules are looked into. Objects of torch and
    Lightning that are no modules are not, such as datasets, optimizers and the Trainer.

    Example:
        >>> from torch import nn, Tensor
        >>> from spl.functional.held_objects import held_objects
        >>> sum(isinstance(item, Tensor) for item in held_objects(nn.Linear(2, 2)))
        2
    """
    seen: dict[int, Any] = {}  # which keeps the objects alive, so that no identity comes twice
    waiting: list[Any] = [module]
    while waiting:
        item = waiting.pop()
        if isinstance(item, _PLAIN) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, _CONTAINERS):  # the most frequent case comes first: each module has a dozen tables
            yield item
            if item and len(item) <= _MANY:
                waiting.extend(item.values() if isinstance(item, dict) else item)
            if hasattr(item, "__dict__"):
                waiting.append(vars(item))
        elif isinstance(item, Tensor):
            yield item
            if item.is_leaf and item.grad is not None:
                waiting.append(item.grad)
        elif isinstance(item, _CONTENTS):
            yield item
        elif isinstance(item, nn.Module) or (hasattr(item, "__dict__") and _is_plain(type(item))):
            waiting.append(vars(item))


def _is_plain(kind: type) -> bool:
    """Return whether the instances of a class are objects of the user's that may hold tensors."""
    if issubclass(kind, type) or kind.__module__ in ("builtins", "types", "functools"):
        return False
    return not any(base.__module__.partition(".")[0] in _LIBRARIES for base in kind.__mro__)


def detached_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module, in which activations that it keeps as attributes are constants.

    `copy.deepcopy` refuses tensors that have a graph, such as the features that a network keeps for a visualization.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.held_objects import detached_copy
        >>> layer = nn.Linear(2, 1)
        >>> layer.features = layer(torch.ones(2))
        >>> detached_copy(layer).features.requires_grad
        False
    """
    found = [item for item in held_objects(module) if isinstance(item, Tensor) and not item.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in found})
