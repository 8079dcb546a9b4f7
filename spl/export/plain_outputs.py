"""Outputs as plain containers, so that programs with these outputs need no other package to be loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def plain_outputs(network: nn.Module) -> Iterator[None]:
    """Let a network return dictionaries and tuples in place of their subclasses, such as the outputs of Hugging Face.

    Args:
        network: the network; outside the context it returns what it did before.

    Example:
        >>> from collections import OrderedDict
        >>> import torch
        >>> from spl.export.plain_outputs import plain_outputs
        >>> class Named(torch.nn.Module):
        ...     def forward(self, x):
        ...         return OrderedDict(logits=x)
        >>> network = Named()
        >>> with plain_outputs(network):
        ...     network(torch.ones(1))
        {'logits': tensor([1.])}
    """
    handle = network.register_forward_hook(lambda module, inputs, outputs: _plain(outputs))
    try:
        yield
    finally:
        handle.remove()


def _plain(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return {key: _plain(value) for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        items = [_plain(item) for item in outputs]
        return items if isinstance(outputs, list) else tuple(items)
    return outputs
