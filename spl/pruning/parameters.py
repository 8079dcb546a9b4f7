"""The parameters of a network that can be pruned."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from spl.errors import InputError
from spl.functional.layers import BIASES, EMBEDDINGS, WEIGHTS, is_transposed, prunable_names
from spl.functional.torch_private import parameter_table
from spl.masks.masks import Masks
from spl.masks.sharding import whole_name


def prunable_parameters(
    network: nn.Module,
    include_bias: bool = False,
    exclude: Sequence[str] = (),
    include_embedding: bool = False,
    include: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """Return the weights of Linear, convolutional, attention and recurrent layers, by name.

    Tied weights are returned once, and those of layers of width 0 not at all. The linear layers of Hugging Face
    (`Conv1D`) and PyTorch Geometric (`Linear`) count too. Weights of other layers are returned if they are asked for by
    name.
    Embeddings stay dense unless they are asked for: a batch scores only the rows of its own tokens, and all other rows
    would score 0 and be pruned. An embedding that is tied to a Linear layer is that layer's weight, and is pruned.

    Args:
        network: any module.
        include_bias: return the biases of these layers too, as the paper counts them.
        exclude: shell patterns of full parameter names (`fc1.weight`, `*.bias`) that stay dense.
        include_embedding: return embeddings too.
        include: shell patterns of full names of parameters that are returned too, whatever their layer. They must have
            two or more axes.

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
    wanted = {id(parameter) for _, parameter in named} | _included(network, include)
    trainable = {n: p for n, p in network.named_parameters() if p.requires_grad and (is_lazy(p) or p.numel())}
    found = {n: p for n, p in trainable.items() if id(p) in wanted}
    if not found and not computed:
        raise InputError(
            f"{type(network).__name__} has no weights to prune: it needs trainable Linear or convolutional layers, "
            "attention or recurrent layers, or weights that are named by include."
        )
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in [*found, *computed]):
            raise InputError(f"exclude: {pattern!r} matches none of the parameters {', '.join(found)}.")
    kept = {name: parameter for name, parameter in found.items() if not _matches(name, exclude)}
    _check_own([name for name in computed if not _matches(name, exclude)], kept)
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
            if table is not BIASES or getattr(module, name, None) is not None:
                yield full, None
        elif (parameter := own[name]) is not None:
            yield full, parameter


def transposed_parameters(network: nn.Module, names: Iterable[str]) -> list[str]:
    """Return which of the weights called `names` are [in, out] instead of [out, in].

    Example:
        >>> from torch import nn
        >>> from spl.pruning.parameters import transposed_parameters
        >>> transposed_parameters(nn.Sequential(nn.Linear(4, 3)), ["0.weight"])
        []
    """
    transposed = {whole_name(f"{name}.weight") for name, layer in network.named_modules() if is_transposed(layer)}
    return [name for name in names if name in transposed]


def oriented_masks(network: nn.Module, masks: Masks) -> Masks:
    """Return `masks` with each matrix as [out, in], also where the layer keeps its weight as [in, out].

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.pruning.parameters import oriented_masks
        >>> masks = Masks({"0.weight": torch.ones(3, 4, dtype=torch.bool)})
        >>> oriented_masks(nn.Sequential(nn.Linear(4, 3)), masks)["0.weight"].shape
        torch.Size([3, 4])
    """
    transposed = transposed_parameters(network, masks)
    return Masks({**masks, **{name: masks[name].mT for name in transposed}}) if transposed else masks


def _included(network: nn.Module, include: Sequence[str]) -> set[int]:
    """Return the identities of the parameters that are named by `include`."""
    candidates = {n: p for n, p in network.named_parameters() if p.requires_grad and (is_lazy(p) or p.ndim > 1)}
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in candidates):
            raise InputError(
                f"include: {pattern!r} matches none of the trainable parameters of two or more axes: "
                f"{', '.join(candidates)}."
            )
    return {id(p) for name, p in candidates.items() if _matches(name, include)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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
