"""Products of stacked linear layers that round like the products of a single network."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class RoundAsSingle(TorchFunctionMode):
    """A context in which `F.linear` under `vmap` rounds on one thread of a CPU, bit for bit, as it does without `vmap`.

    vmap's own rule adds the bias after the product and takes the weight's gradient by the transposed product, so the
    last bits differ. A training that amplifies differences carries them into the first digits: after 200 steps of a
    dense tanh MLP-7 at learning rate 0.1, the largest difference was 0.1.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            return _Linear.apply(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """The product x Wᵀ + b of one network; under vmap, the products of all."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Save nothing, because this function is only differentiated under vmap."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, int]:
        networks = info.batch_size
        x = x.expand(networks, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        rows = x.flatten(1, -2)
        products: Tensor = _StackedLinear.apply(rows, weight, bias)
        return products.view(*x.shape[:-1], -1), 0


class _StackedLinear(torch.autograd.Function):
    """The products x Wᵀ + b of P networks: [P, N, in], [P, out, in], [P, out] → [P, N, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if of_x else None,
            torch.bmm(gradient.mT, x) if of_weight else None,
            gradient.sum(1) if of_bias else None,
        )
