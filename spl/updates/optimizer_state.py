"""The state that optimizers keep of weights which come and go."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spl.masks.remarks import warn


@torch.no_grad()
def clear_state(optimizer: Any, changed: Mapping[Tensor, Tensor]) -> None:
    """Set the momentum and the second moments of weights to 0, in an optimizer and in those that it wraps.

    These are all floating-point tensors in the shape of a parameter, or of several such tensors in one. Quantized
    moments of torchao and bitsandbytes get the quantized value that is nearest to 0. L-BFGS begins anew, because the
    directions it remembers are those of other weights. A warning names all other state, such as factored moments
    (Adafactor), which stays as it is.

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
        left: set[str] = set()
        for parameter, mask in changed.items():
            left |= _clear_all(dict(state.get(parameter) or {}), mask)
        if isinstance(each, torch.optim.LBFGS):
            for entry in each.state.values():
                entry["n_iter"] = 0
        elif left:
            warn(
                f"{type(each).__name__} keeps {', '.join(sorted(left))} in another form than one number for each "
                "weight, so what it remembers there of weights that come or go is not set to 0. SGD and Adam forget "
                "all of it."
            )


def _clear_all(state: Mapping[str, Any], mask: Tensor) -> set[str]:
    """Clear the state of one parameter where the mask is True, and return the names of what could not be cleared."""
    tables = {key for key in state if key.startswith(("qmap", "absmax"))}  # of bitsandbytes
    left = set()
    for key in state.keys() - tables:
        values = state[key] if isinstance(state[key], list | tuple) else [state[key]]
        tensors = [v for v in values if isinstance(v, Tensor) and (v.numel() > 1 or v.shape == mask.shape)]
        zero = _code_of_zero(state, key)
        cleared = [_clear(tensor, mask.to(tensor.device), zero) for tensor in tensors]
        if not all(cleared):
            left.add(key)
    return left


def _clear(value: Tensor, mask: Tensor, zero: Tensor | None) -> bool:
    """Clear a tensor where the mask is True, and return whether it has such places."""
    is_stack = mask.dim() > 1 and value.shape[1:] == mask.shape
    if value.shape != mask.shape and not is_stack:
        return False
    if type(value).dequantize is not Tensor.dequantize:  # a quantized tensor of torchao
        value.copy_(value.dequantize().masked_fill(mask, 0))
    elif zero is not None or value.is_floating_point() or value.is_complex():
        value.masked_fill_(mask, 0 if zero is None else zero)
    else:
        return value.dtype == torch.bool  # integers may be codes
    return True


def _code_of_zero(state: Mapping[str, Any], key: str) -> Tensor | None:
    """Return the code of the value nearest to 0 in quantized moments of bitsandbytes; None for other state."""
    table = state.get(key.replace("state", "qmap")) if key.startswith("state") else None
    return table.abs().argmin().to(torch.uint8) if isinstance(table, Tensor) else None


def _with_wrapped(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer):
            yield from _with_wrapped(value)
