"""The network that a checkpoint names, by a class and its arguments.

A checkpoint is data: nothing that it names is imported or called unless it is on an allow-list. The list has the public
classes of `spl.networks` and the classes that the user names. Arguments are plain values and objects of such classes.
The whole entry is checked before anything is imported or called.
"""

import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spl import networks
from spl.errors import InputError
from spl.networks.loading.annotations import Classes, instantiate
from spl.networks.loading.plain import NotAllowedError, class_paths, quoted


def build_network(checkpoint: Mapping[str, Any], path: str | Path, trust: str | Iterable[str] = ()) -> nn.Module:
    """Build the network that a checkpoint names.

    Args:
        checkpoint: the contents of the file.
        path: path of the file.
        trust: paths of classes that the file may name besides those of `spl.networks`. They are imported.

    Raises:
        InputError: the checkpoint names no network, or a class that is not allowed, or has arguments that are not
            plain; or the network cannot be built with them, or is larger than the file; or `trust` names something
            that is not a class.

    Example:
        >>> from spl.networks.loading.network_entry import build_network
        >>> build_network({"network": {"class_path": "os.system", "init_args": {"command": "ls"}}}, "last.ckpt")
        Traceback (most recent call last):
        spl.errors.InputError: last.ckpt asks for 'os.system', and a checkpoint may ask only for a class of ...
    """
    if "network" not in checkpoint:
        raise InputError(
            f"{path} does not say how to build its network; checkpoints of the `spl` command do. In Python, pass the "
            "network: load_from_checkpoint(path, network=...). The functions of spl.export take any network."
        )
    entry, own, names = checkpoint["network"], _own_classes(), frozenset([trust] if isinstance(trust, str) else trust)
    try:
        _check_allowed(entry, own.keys() | names)
        classes = own | {name: _import_class(name) for name in names}
        if entry["class_path"] in own:
            _check_size(entry, classes, path)
        return _instantiate(entry, classes, path)
    except NotAllowedError as error:
        raise InputError(
            f"{path} asks for {error}, and a checkpoint may ask only for a class of spl.networks with plain "
            "arguments. In Python, pass the network: load_from_checkpoint(path, network=...). On the command line, "
            "name each class that the network needs, if you know what it does: --trust mynet.Net."
        ) from error


def _own_classes() -> dict[str, type]:
    """Return the public classes of `spl.networks`, by the path of the package and by that of their module."""
    public = {name: getattr(networks, name) for name in networks.__all__}
    return {f"{networks.__name__}.{name}": cls for name, cls in public.items()} | {
        f"{cls.__module__}.{cls.__qualname__}": cls for cls in public.values()
    }


def _check_allowed(entry: object, allowed: Iterable[str]) -> None:
    asked = class_paths(entry)
    if not (isinstance(entry, dict) and "class_path" in entry):
        raise NotAllowedError(f"a network by a {type(entry).__name__} that has no class_path")
    if unknown := sorted(set(asked).difference(allowed)):
        raise NotAllowedError(", ".join(map(quoted, unknown[:5])))


def _import_class(name: str) -> type:
    """Import a class that the user names."""
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:
        raise InputError(
            f"{name} is to be trusted but cannot be imported ({error}): give the path of a class, such as mynet.Net."
        ) from error
    if not isinstance(found, type):
        raise InputError(f"{name} is a {type(found).__name__}, and only a class can be trusted: give the path of one.")
    return found


def _instantiate(entry: Mapping[str, Any], classes: Classes, path: str | Path) -> nn.Module:
    if not issubclass(classes[entry["class_path"]], nn.Module):
        raise NotAllowedError(f"{quoted(entry['class_path'])}, which is not a network")
    try:
        network = instantiate(entry, classes)
    except NotAllowedError:
        raise
    except Exception as error:
        raise InputError(
            f"The network of {path} cannot be built ({error}). Pass it: load_from_checkpoint(path, network=...)."
        ) from error
    assert isinstance(network, nn.Module)
    return network


def _check_size(entry: Mapping[str, Any], classes: Classes, path: str | Path) -> None:
    """Refuse a network that has more numbers than the file has bytes, before memory is allocated for it."""
    with torch.device("meta"):
        network = _instantiate(entry, classes, path)
    numbers = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    held = Path(path).stat().st_size
    if numbers > held:
        raise InputError(
            f"{path} has {held:,} bytes, and the network that it names has {numbers:,} parameters: it was changed "
            "after it was written. Give another checkpoint."
        )
