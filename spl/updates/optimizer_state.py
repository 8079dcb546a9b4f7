"""The state that optimizers keep of weights which come and go."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def clear_state(optimizer: Any, changed: Mapping[Tensor, Tensor]) -> None:
    """Set the momentum and the second moments of weights to 0, in an optimizer and in those that it wraps.

    These are all floating-point tensors in the shape of a parameter. State of other shapes stays: factored moments
    (Adafactor) and quantized ones. L-BFGS begins anew, because the directions it remembers are those of other weights.

    Args:
        optimizer: the optimizer.
        changed: bool tensors in the shapes of parameters, True for the weights that have come or gone.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.updates.optimizer_state import clear_state
        >>> weight = nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> clear_state(optimizer, {weight: torch.tensor([True, False])})
        >>> optimizer.state[weight]["momentum_buffer"]
        tensor([0., 1.])
    """
    for each in _with_wrapped(optimizer):
        state = getattr(each, "state", {})
        for parameter, mask in changed.items():
            for value in dict(state.get(parameter) or {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and not _counts(value):
                    value.masked_fill_(mask.to(value.device), 0)
        if isinstance(each, torch.optim.LBFGS):
            for entry in each.state.values():
                entry["n_iter"] = 0


def _counts(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def _with_wrapped(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer):
            yield from _with_wrapped(value)
