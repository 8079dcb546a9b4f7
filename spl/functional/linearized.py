"""The linear network with non-negative weights that has the same paths from inputs to outputs as a network."""

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
    """Return ∂R/∂|w| of R = 1ᵀ f(1), the sum over all input-output paths of the products of their |w|, in float64.

    This is equation 2 of Tanaka et al. 2020. f is the network with every activation replaced by the identity, biases
    and running means by 0, and weights by their absolute values. Normalization scales by |γ|/√(σ² + ε), with σ² as
    recorded; one without γ and σ² is left out. The activations are the modules in `ACTIVATIONS`; a ReLU may also be
    called as a function, because nothing here is negative.

    Args:
        network: the network, which is left unchanged.
        weights: values to use for parameters, by name; other parameters keep their own values.
        inputs: Tensor [N, ...], used only for the shape of one example of ones.

    Returns:
        Non-negative gradients in the shapes of `weights`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.linearized import path_gradients
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> weights = {"0.weight": torch.tensor([[1.0, -2.0], [0.0, 3.0]]), "2.weight": torch.tensor([[5.0, -1.0]])}
        >>> path_gradients(network, weights, torch.zeros(4, 2))["0.weight"]
        tensor([[5., 5.],
                [1., 1.]], dtype=torch.float64)
    """
    leaves = {name: weight.detach().double().abs().requires_grad_() for name, weight in weights.items()}
    state = absolute_state(network) | leaves

    def work(linear: nn.Module) -> tuple[Tensor, ...]:
        total = linear(one_example(inputs)).sum()
        return torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)

    with undisturbed(network), forwards(linear_forwards(network)):
        return dict(zip(leaves, substituted(network, state, work), strict=True))


def one_example(inputs: Tensor) -> Tensor:
    """Return one example of ones with the shape of those in `inputs`, in float64.

    Example:
        >>> import torch
        >>> from spl.functional.linearized import one_example
        >>> one_example(torch.rand(32, 3)).tolist()
        [[1.0, 1.0, 1.0]]
    """
    return torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)


def absolute_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the absolute values of parameters and buffers in float64, with biases and running means set to 0.

    Example:
        >>> from torch import nn
        >>> from spl.functional.linearized import absolute_state
        >>> layer = nn.Linear(2, 1)
        >>> state = absolute_state(layer)
        >>> bool((state["weight"] == layer.weight.double().abs()).all()), state["bias"].tolist()
        (True, [0.0])
    """
    state = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        moved = name.rpartition(".")[2] in ("bias", "running_mean")
        floating = tensor.detach().double() if tensor.is_floating_point() else tensor
        state[name] = torch.zeros_like(floating) if moved else floating.abs()
    return state


def linear_forwards(network: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return what activations, dropout and normalizations compute instead, by module: the identity or a scaling.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.linearized import linear_forwards
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> linear_forwards(network)[network[1]](torch.tensor(-1.0))
        tensor(-1.)
    """
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
    """Return whether a module is a BatchNorm that has weights or running statistics to scale by.

    Example:
        >>> from torch import nn
        >>> from spl.functional.linearized import scales
        >>> scales(nn.BatchNorm1d(3)), scales(nn.BatchNorm1d(3, affine=False, track_running_stats=False))
        (True, False)
    """
    return isinstance(module, BatchNorm) and (module.affine or module.running_var is not None)


def _scaled(norm: BatchNorm, x: Tensor) -> Tensor:
    return times(batch_norm_scale(norm), x)


def batch_norm_scale(norm: BatchNorm) -> Tensor:
    """Return |γ|/√(σ² + ε) for each channel; a factor that the BatchNorm does not have is left out.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.linearized import batch_norm_scale
        >>> norm = nn.BatchNorm1d(2, eps=0.0)
        >>> norm.running_var = torch.tensor([4.0, 1.0])
        >>> batch_norm_scale(norm).tolist()
        [0.5, 1.0]
    """
    factors = [norm.weight.double().abs()] if norm.affine else []
    if norm.running_var is not None:
        factors.append((norm.running_var.double() + norm.eps).rsqrt())
    return reduce(torch.mul, factors)


def times(scale: Tensor, x: Tensor) -> Tensor:
    """Multiply each channel of x [N, channels, ...] by its scale.

    Example:
        >>> import torch
        >>> from spl.functional.linearized import times
        >>> times(torch.tensor([2.0, 3.0]), torch.ones(1, 2, 2)).tolist()
        [[[2.0, 2.0], [3.0, 3.0]]]
    """
    return x * scale.view(-1, *(1,) * (x.ndim - 2))


@contextmanager
def forwards(instead: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace what modules compute, and put them into evaluation mode, inside the context.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.functional.linearized import forwards
        >>> relu = nn.ReLU()
        >>> with forwards({relu: lambda x: x}):
        ...     print(relu(torch.tensor(-1.0)))
        tensor(-1.)
        >>> relu(torch.tensor(-1.0))
        tensor(0.)
    """
    own = {module: (module.training, module.__dict__.get("forward")) for module in instead}
    try:
        for module, forward in instead.items():
            module.__dict__.update(training=False, forward=forward)  # nn.Module.__setattr__ is slow
        yield
    finally:
        for module, (training, previous) in own.items():
            module.__dict__.update(training=training, forward=previous)
            if previous is None:
                del module.__dict__["forward"]
