"""Temporary substitution of other tensors for the parameters and buffers of a network."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

Result = TypeVar("Result")


def substituted(network: nn.Module, tensors: Mapping[str, Tensor], work: Callable[[nn.Module], Result]) -> Result:
    """Call `work` with a network whose parameters and buffers are replaced by `tensors`, and return its result.

    Gradients must be taken inside `work`: layers that save memory by checkpointing (`torch.utils.checkpoint`) are
    computed again in the backward pass, and outside they would use the network's own tensors.

    Args:
        network: the network, which is left unchanged.
        tensors: the tensors to use, by name; a tied one by any of its names.
        work: a function of the network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.substitution import substituted
        >>> network = nn.Linear(2, 1, bias=False)
        >>> substituted(network, {"weight": torch.tensor([[3.0, 4.0]])}, lambda net: net(torch.ones(2)).item())
        7.0
    """
    holder = _Holder(network)
    result: Result = functional_call(holder, {f"network.{name}": t for name, t in tensors.items()}, (work,))
    return result


class _Holder(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[nn.Module], Any]) -> Any:
        return work(self.network)
