"""The share of a network that its masks cover, and the weights that stay dense."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spl.functional.layers import EMBEDDINGS
from spl.masks.masks import Masks
from spl.masks.sharding import whole_name


class Coverage(NamedTuple):
    """What the masks of a network cover of its weights of two or more axes; biases and the like do not count.

    Attributes:
        covered: the share of these weights that are under a mask, kept or pruned.
        sparsity: the share of these weights that are pruned, which is the sparsity of the network.
        dense: why the others stay dense, by parameter name, the largest first: they are `frozen` (`requires_grad` is
            False), `excluded`, have `no gradient` of the loss, or it is the class of their layer.

    Example:
        >>> from spl.criteria import Magnitude
        >>> from spl.pruning import prune
        >>> from spl.pruning.coverage import Coverage
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10), nn.Linear(10, 2))
        >>> coverage = Coverage.of(network, prune(network, Magnitude(), 0.9, exclude=["2.*"]), exclude=["2.*"])
        >>> coverage
        Coverage(covered=0.4, sparsity=0.36, dense={'0.weight': 'embedding', '2.weight': 'excluded'})
        >>> print(coverage)
        40.0% of the network's weights are under masks, so it is 0.3600 sparse; dense: 0.weight (embedding), ...
    """

    covered: float
    sparsity: float
    dense: dict[str, str]

    @classmethod
    def of(
        cls, network: nn.Module, masks: Masks, exclude: Sequence[str] = (), unreached: Collection[str] = ()
    ) -> "Coverage":
        """Return the coverage of a network.

        Args:
            network: the network.
            masks: its masks.
            exclude: shell patterns of names that were to stay dense.
            unreached: the names of parameters that get no gradient from the loss.
        """
        sizes, reasons = {}, {}
        layers = dict(network.named_modules())
        for own, parameter in network.named_parameters():
            if is_lazy(parameter) or parameter.ndim < 2 or not parameter.numel():
                continue
            name = whole_name(own)
            sizes[name] = parameter.numel()
            if name not in masks:
                layer = layers[own.rpartition(".")[0]]
                reasons[name] = _reason(name, parameter, layer, exclude, unreached)
        dense = {name: reasons[name] for name in sorted(reasons, key=lambda name: -sizes[name])}
        total = max(1, sum(sizes.values()))
        masked = [mask for name, mask in masks.items() if name in sizes]
        covered = sum(mask.numel() for mask in masked)
        return cls(covered / total, (covered - sum(int(mask.sum()) for mask in masked)) / total, dense)

    def __str__(self) -> str:
        names = shortened([f"{name} ({reason})" for name, reason in self.dense.items()])
        return (
            f"{self.covered:.1%} of the network's weights are under masks, so it is {self.sparsity:.4f} sparse; "
            f"dense: {names or 'none'}"
        )


def _reason(name: str, parameter: Tensor, layer: nn.Module, exclude: Sequence[str], unreached: Collection[str]) -> str:
    if not parameter.requires_grad:
        return "frozen"
    if name in unreached:
        return "no gradient"
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return "excluded"
    return "embedding" if isinstance(layer, tuple(EMBEDDINGS)) else type(layer).__name__


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and the number of the others.

    Example:
        >>> from spl.pruning.coverage import shortened
        >>> shortened(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
