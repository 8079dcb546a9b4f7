"""Other tensors in place of a network's own, for as long as it is worked with."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

Result = TypeVar("Result")


def substituted(network: nn.Module, tensors: Mapping[str, Tensor], work: Callable[[nn.Module], Result]) -> Result:
    """What `work` makes of the network while these tensors stand for its parameters and buffers of the same names.

    Gradients are to be taken within `work`: layers that save memory by checkpointing (`torch.utils.checkpoint`) are
    computed again in the backward pass, which outside would find the network's own tensors.

    Args:
        network: left as it was found.
        tensors: by name; tied ones by any of their names.
        work: is called with the network.
    """
    room = _Room(network)
    result: Result = functional_call(room, {f"network.{name}": t for name, t in tensors.items()}, (work,))
    return result


class _Room(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[nn.Module], Any]) -> Any:
        return work(self.network)
