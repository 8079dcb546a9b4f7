"""Networks that are trained through `torch.compile`."""

from typing import Any, Literal, get_args

import torch
from torch import nn

from spl.errors import InputError

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
"""The modes of `torch.compile`; the last two replay a step's kernels as CUDA graphs."""


class CompiledNetwork:
    """A network compiled in place, which is called through this object.

    The modes reduce-overhead and max-autotune record CUDA graphs, each for inputs of one size. So these modes compile
    training batches of one size, that of the first batch. Smaller last batches and evaluation run eagerly, which costs
    less than to compile the network again for each of them. Scores and spectra are computed eagerly in each mode.

    Args:
        network: the network.
        mode: how `torch.compile` compiles it; True for its default.

    Raises:
        InputError: there is no such mode.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.compiled import CompiledNetwork
        >>> network = CompiledNetwork(nn.Linear(2, 1), "reduce-overhead")
        >>> network(torch.ones(3, 2)).shape  # eagerly, because no training batch was announced
        torch.Size([3, 1])
    """

    def __init__(self, network: nn.Module, mode: Literal[True] | CompileMode) -> None:
        if mode is not True and mode not in get_args(CompileMode):
            raise InputError(f"compile must be true, false, {' or '.join(get_args(CompileMode))}, got {mode!r}.")
        self.network = network
        self.uses_graphs = mode in ("reduce-overhead", "max-autotune")
        self._size: torch.Size | None = None
        network.compile(mode="default" if mode is True else mode)

    def announce(self, inputs: Any) -> None:
        """Take the size of a training batch as the one to compile, if it is the first."""
        if self._size is None and isinstance(inputs, torch.Tensor):
            self._size = inputs.shape

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs of the network."""
        if not self.uses_graphs or (self.network.training and getattr(inputs, "shape", None) == self._size):
            return self.network(inputs)
        with torch.compiler.set_stance("force_eager"):
            return self.network(inputs)

    def own_gradients_(self) -> None:
        """Copy the gradients out of the memory of the CUDA graphs, which the next batch overwrites.

        Gradients that accumulate over batches would otherwise be wrong (pytorch/pytorch#169545).
        """
        if self.uses_graphs:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()
