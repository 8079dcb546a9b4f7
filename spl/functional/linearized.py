"""The linear network of non-negative weights that a network becomes where only its paths count."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from typing import TypeGuard

import torch
from torch import Tensor, nn

from spl.functional.layers import ACTIVATIONS
from spl.functional.substitution import substituted
from spl.functional.torch_private import BatchNorm, DropoutNd, NormBase
from spl.functional.undisturbed import undisturbed


def path_gradients(network: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """∂R/∂|w| of R = 1ᵀ f(1), the sum over all input-output paths of the products of their |w|; in float64.

    Tanaka et al. 2020, equation 2. f is the network with every activation replaced by the identity, biases and
    running means by 0, and its weights by their absolute values; normalization scales by |γ|/√(σ² + ε), σ² as
    recorded, and is else left out. Activations are `ACTIVATIONS`, the modules; a ReLU may also be a function, as
    nothing here is negative.

    Args:
        network: left as it was found.
        weights: by name, values to use for its parameters; those of others are their own.
        inputs: [N, ...]; only its shape counts, for one example of ones.

    Returns:
        Gradients in the shapes of `weights`, non-negative.
    """
    leaves = {name: weight.detach().double().abs().requires_grad_() for name, weight in weights.items()}
    state = absolute_state(network) | leaves

    def work(linear: nn.Module) -> tuple[Tensor, ...]:
        total = linear(one_example(inputs)).sum()
        return torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)

    with undisturbed(network), forwards(linear_forwards(network)):
        return dict(zip(leaves, substituted(network, state, work), strict=True))


def one_example(inputs: Tensor) -> Tensor:
    """An example of ones, in float64."""
    return torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)


def absolute_state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers in float64: without sign, and biases and running means 0."""
    state = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        moved = name.rpartition(".")[2] in ("bias", "running_mean")
        floating = tensor.detach().double() if tensor.is_floating_point() else tensor
        state[name] = torch.zeros_like(floating) if moved else floating.abs()
    return state


def linear_forwards(network: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """What activations and normalizations do instead: nothing, or scale."""
    instead: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for module in network.modules():
        if scales(module):
            instead[module] = partial(_scaled, module)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, NormBase, DropoutNd, *ACTIVATIONS)):
            instead[module] = _unchanged
    return instead


def _unchanged(x: Tensor) -> Tensor:
    return x


def scales(module: nn.Module) -> TypeGuard[BatchNorm]:
    """Whether it is a BatchNorm with a scale of its own."""
    return isinstance(module, BatchNorm) and (module.affine or module.running_var is not None)


def _scaled(norm: BatchNorm, x: Tensor) -> Tensor:
    return times(batch_norm_scale(norm), x)


def batch_norm_scale(norm: BatchNorm) -> Tensor:
    """|γ|/√(σ² + ε) by channel, of what there is of it."""
    factors = [norm.weight.double().abs()] if norm.affine else []
    if norm.running_var is not None:
        factors.append((norm.running_var.double() + norm.eps).rsqrt())
    return reduce(torch.mul, factors)


def times(scale: Tensor, x: Tensor) -> Tensor:
    """Each channel of x [N, channels, ...] times its scale."""
    return x * scale.view(-1, *(1,) * (x.ndim - 2))


@contextmanager
def forwards(instead: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let modules compute something else, in evaluation mode."""
    own = {module: (module.training, module.__dict__.get("forward")) for module in instead}
    try:
        for module, forward in instead.items():
            module.__dict__.update(training=False, forward=forward)  # nn.Module's own way of setting is slow
        yield
    finally:
        for module, (training, previous) in own.items():
            module.__dict__.update(training=training, forward=previous)
            if previous is None:
                del module.__dict__["forward"]
