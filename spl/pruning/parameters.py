"""What pruning may touch."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from spl.errors import InputError
from spl.layers import WEIGHTED


def prunable_parameters(
    network: nn.Module, include_bias: bool = False, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The parameters that pruning may touch: weights of Linear and convolutional layers, tied ones once.

    Args:
        network: any module.
        include_bias: their biases too, as the paper counts them.
        exclude: shell patterns over full parameter names (`fc1.weight`, `*.bias`) that stay dense.

    Raises:
        InputError: nothing is prunable, or a pattern matches nothing.
    """
    kinds = ("weight", "bias") if include_bias else ("weight",)
    layers = [module for module in network.modules() if isinstance(module, WEIGHTED)]
    prunable = {id(getattr(layer, kind)) for layer in layers for kind in kinds}
    found = {
        name: parameter
        for name, parameter in network.named_parameters()
        if id(parameter) in prunable and parameter.requires_grad
    }
    if not found:
        raise InputError(
            f"{type(network).__name__} has no weights to prune: it needs trainable Linear or convolutional layers."
        )
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise InputError(f"exclude: {pattern!r} matches none of the parameters {', '.join(found)}.")
    kept = {n: p for n, p in found.items() if not any(fnmatchcase(n, pattern) for pattern in exclude)}
    if not kept:
        raise InputError(f"exclude: {list(exclude)} leaves nothing to prune of {', '.join(found)}.")
    return kept
