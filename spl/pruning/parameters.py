"""The parameters of a network that can be pruned."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from spl.errors import InputError
from spl.functional.layers import BIASES, EMBEDDINGS, WEIGHTS, prunable_names
from spl.functional.torch_private import parameter_table


def prunable_parameters(
    network: nn.Module, include_bias: bool = False, exclude: Sequence[str] = (), include_embedding: bool = False
) -> dict[str, nn.Parameter]:
    """Return the weights of Linear, convolutional, attention and recurrent layers, by name.

    Tied weights are returned once.
    Embeddings stay dense unless they are asked for: a batch scores only the rows of its own tokens, and all other rows
    would score 0 and be pruned. An embedding that is tied to a Linear layer is that layer's weight, and is pruned.

    Args:
        network: any module.
        include_bias: return the biases of these layers too, as the paper counts them.
        exclude: shell patterns of full parameter names (`fc1.weight`, `*.bias`) that stay dense.
        include_embedding: return embeddings too.

    Raises:
        InputError: there is nothing to prune, a pattern matches nothing, or a weight is not initialized yet (lazy
            layers) or computed from others (weight norm, spectral norm).

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(prunable_parameters(network, include_bias=True, exclude=["2.bias"]))
        ['0.weight', '0.bias', '2.weight']
    """
    tables = [WEIGHTS, *([EMBEDDINGS] if include_embedding else []), *([BIASES] if include_bias else [])]
    named = [pair for name, module in network.named_modules() for table in tables for pair in _own(name, module, table)]
    computed = [name for name, parameter in named if parameter is None]
    wanted = {id(parameter) for _, parameter in named}
    found = {n: p for n, p in network.named_parameters() if id(p) in wanted and p.requires_grad}
    if not found and not computed:
        raise InputError(
            f"{type(network).__name__} has no weights to prune: it needs trainable Linear or convolutional layers, "
            "attention or recurrent layers."
        )
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in [*found, *computed]):
            raise InputError(f"exclude: {pattern!r} matches none of the parameters {', '.join(found)}.")
    kept = {name: parameter for name, parameter in found.items() if not _excluded(name, exclude)}
    _check_own([name for name in computed if not _excluded(name, exclude)], kept)
    if not kept:
        raise InputError(f"exclude: {list(exclude)} leaves nothing to prune of {', '.join(found)}.")
    return kept


def _own(
    module_name: str, module: nn.Module, table: dict[type[nn.Module], tuple[str, ...]]
) -> Iterator[tuple[str, nn.Parameter | None]]:
    """Yield the parameters of a module that the table names, by full name; None for one computed from others."""
    own = parameter_table(module)
    for name in prunable_names(module, table):
        full = f"{module_name}.{name}" if module_name else name
        if name not in own:
            yield full, None
        elif (parameter := own[name]) is not None:
            yield full, parameter


def _excluded(name: str, exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in exclude)


def _check_own(computed: Sequence[str], found: dict[str, nn.Parameter]) -> None:
    """Refuse weights that have no entries of their own that could be set to 0."""
    if computed:
        raise InputError(
            f"{', '.join(computed)}: computed from other parameters (weight norm, spectral norm, "
            "torch.nn.utils.prune), so an entry of it cannot be held at 0. Remove the parametrization, or leave it out "
            "with exclude."
        )
    if lazy := [name for name, parameter in found.items() if is_lazy(parameter)]:
        raise InputError(
            f"{', '.join(lazy)}: the weight of a lazy layer has no shape before its first input. Run the module "
            "once on a batch before fit."
        )
