"""The forward pass of stacked networks, which an accelerator replays without the work of the host."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spl.reproduction.stacked.linear import RoundAsSingle


class ForwardPass:
    """The forward pass of a stack of networks.

    `vmap` costs the host more than a small network costs an accelerator. So on an accelerator the kernels of the
    forward and the backward pass are recorded once, as CUDA graphs, for training batches of the size of the first.

    Args:
        network: a network with stacked parameters [P, ...]. Optimizers must update them in place.
    """

    def __init__(self, network: nn.Module) -> None:
        self._pass = _Pass(network)
        self._recorded: Any = None
        self._size: torch.Size | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits [P, N, classes] for inputs [P, N, ...], or for inputs [1, N, ...] that all networks share."""
        if x.is_cuda and torch.is_grad_enabled() and self._size in (None, x.shape):
            if self._recorded is None:
                self._size = x.shape
                self._recorded = torch.cuda.make_graphed_callables(_Pass(self._pass.network), (x,))
            logits: Tensor = self._recorded(x)
        else:
            logits = self._pass(x)
        return logits


class _Pass(nn.Module):
    """The forward pass as a module, which can be recorded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        shared = len(x) == 1
        with RoundAsSingle():
            logits: Tensor = vmap(self._single, (0, None if shared else 0))(parameters, x[0] if shared else x)
        return logits

    def _single(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, parameters, (x,))
        return logits
