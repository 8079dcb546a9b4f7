"""Wrappers of a network for training (torch.compile, DataParallel, Fabric), and the prefixes that they add to names."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from spl.functional.torch_private import COMPILED_PREFIX, WRAPPER_PREFIXES, compiled_module

T = TypeVar("T")

_LEADING = ("_forward_module.", "module.")  # of Fabric; of DataParallel, DistributedDataParallel and others


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `torch.compile`, (Distributed)DataParallel and Lightning Fabric.

    The parameters are the same objects. Without the wrappers, they have the names that the network gives to them, and
    a backward pass through the network does not involve other processes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.wrappers import unwrapped
        >>> network = nn.Linear(2, 1)
        >>> unwrapped(torch.compile(network)) is network
        True
    """
    while (inner := _inner(network)) is not None:
        network = inner
    return network


def _inner(network: nn.Module) -> nn.Module | None:
    if isinstance(network, DataParallel | DistributedDataParallel) or _is_of_fabric(network):
        return network.module  # type: ignore[return-value]
    return compiled_module(network)


def _is_of_fabric(network: nn.Module) -> bool:
    """Return whether a module is what `Fabric.setup` returns, of either package of Lightning; neither is imported."""
    kind = type(network)
    return kind.__name__ == "_FabricModule" and kind.__module__.startswith(("lightning.fabric.", "lightning_fabric."))


def named_without_wrappers(names: Iterable[str], parameters: Mapping[str, T]) -> dict[str, T]:
    """Return the parameters called `names`, although wrappers may have put a prefix before the names of either.

    Names without a parameter are left out.

    Example:
        >>> from spl.functional.wrappers import named_without_wrappers
        >>> named_without_wrappers(["fc.weight", "fc9.weight"], {"module._orig_mod.fc.weight": 1, "module.fc.bias": 2})
        {'fc.weight': 1}
    """
    found = {name: parameters[name] for name in names if name in parameters}
    if missing := [name for name in names if name not in found and isinstance(name, str)]:  # files may have others
        bare = {name: _bare(name) for name in parameters}
        counts = Counter(bare.values())
        unique = {short: name for name, short in bare.items() if counts[short] == 1}
        found |= {name: parameters[unique[_bare(name)]] for name in missing if _bare(name) in unique}
        found = {name: found[name] for name in names if name in found}
    return found


def _bare(name: str) -> str:
    """Return the name of a parameter without the prefixes of wrappers."""
    for prefix in (COMPILED_PREFIX, *WRAPPER_PREFIXES):
        name = name.replace(prefix, "")
    while name.startswith(_LEADING):
        name = name.partition(".")[2]
    return name
