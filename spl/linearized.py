"""The linear network of non-negative weights that a network becomes where only its paths count."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from spl.modes import undisturbed

ACTIVATIONS = tuple(
    getattr(nn, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)


def path_gradients(network: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """∂R/∂|w| of R = 1ᵀ f(1), the sum over all input-output paths of the products of their |w|; in float64.

    Tanaka et al. 2020, equation 2. f is the network with every activation replaced by the identity, biases and
    running means by 0, and its weights by their absolute values; normalization scales by |γ|/√(σ² + ε), σ² as
    recorded, and is else left out.

    Args:
        network: left as it was found.
        weights: by name, values to use for its parameters; those of others are their own.
        inputs: [N, ...]; only its shape counts, for one example of ones.

    Returns:
        Gradients in the shapes of `weights`, non-negative.
    """
    leaves = {name: weight.detach().double().abs().requires_grad_() for name, weight in weights.items()}
    state = _linear_state(network) | leaves
    ones = torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)
    with undisturbed(network), _straight(network):
        total = functional_call(network, state, (ones,)).sum()
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), materialize_grads=True), strict=True))


def _linear_state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers in float64: without sign, and biases and running means 0."""
    state = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        moved = name.rpartition(".")[2] in ("bias", "running_mean")
        floating = tensor.detach().double() if tensor.is_floating_point() else tensor
        state[name] = torch.zeros_like(floating) if moved else floating.abs()
    return state


@contextmanager
def _straight(network: nn.Module) -> Iterator[None]:
    """Let activations, and normalizations by an example's own statistics, return their input."""

    def input_itself(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0]

    own = (nn.LayerNorm, nn.GroupNorm, *ACTIVATIONS)
    hooks = [
        module.register_forward_hook(input_itself)
        for module in network.modules()
        if isinstance(module, own) or (isinstance(module, _NormBase) and not isinstance(module, _BatchNorm))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
