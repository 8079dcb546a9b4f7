"""Scopes: how many weights each layer keeps. Other packages call this the sparsity distribution."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor

from spl.errors import InputError
from spl.masks.top_k import ranks_of_largest
from spl.pruning.apportionment import apportion, seats_before_first


class LayerUnits(NamedTuple):
    """What a scope knows of a layer.

    Attributes:
        shape: the shape of its weight, [out, in, ...], or of its bias, [out].
        units: how many weights, or groups of weights that are pruned together, it has.
        least: how many of them it keeps in any case.

    Example:
        >>> layers = {"fc1": LayerUnits((10, 4), units=40), "fc2": LayerUnits((2, 10), units=20)}
        >>> Uniform().pools(layers, keep=6)
        {('fc1',): 4, ('fc2',): 2}
    """

    shape: tuple[int, ...]
    units: int
    least: int = 0


class Scope(ABC):
    """A division of the kept weights among the layers. A larger total never takes a weight from a layer."""

    @abstractmethod
    def pools(self, layers: Mapping[str, LayerUnits], keep: int) -> dict[tuple[str, ...], int]:
        """Return how many units are kept in each pool of layers; scores are compared within a pool.

        Args:
            layers: the layers by parameter name.
            keep: the number of units to keep in all pools together.
        """

    def bounds(self, layers: Mapping[str, LayerUnits]) -> dict[str, tuple[int, int]]:
        """Return how many units each layer keeps at least and at most."""
        return {name: (layer.least, layer.units) for name, layer in layers.items()}

    @abstractmethod
    def ahead(self, layers: Mapping[str, LayerUnits], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """Return, for each layer that may keep none, how many units are kept before its first one."""


class Global(Scope):
    """Compare the scores of all layers with each other, and keep the largest, wherever they are.

    Example:
        >>> import torch
        >>> from spl.pruning import select
        >>> scores = {"fc1": torch.tensor([1.0, 2.0]), "fc2": torch.tensor([3.0, 4.0])}
        >>> select(scores, sparsity=0.5, scope=Global()).layer_sparsity()
        {'fc1': 1.0, 'fc2': 0.0}
    """

    def pools(self, layers: Mapping[str, LayerUnits], keep: int) -> dict[tuple[str, ...], int]:
        """Return one pool of all layers."""
        return {tuple(layers): keep}

    def ahead(self, layers: Mapping[str, LayerUnits], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the ranks of the largest scores."""
        return ranks_of_largest(scores)


class LayerDensities(Scope):
    """A scope in which every layer keeps its largest scores, and their number depends only on the layers.

    The kept weights are apportioned by Webster's method, in proportion to densities and sizes. What dense layers
    cannot take goes to the others, so the total is exact.
    """

    @abstractmethod
    def proportions(self, layers: Mapping[str, LayerUnits]) -> dict[str, float]:
        """Return numbers to which the densities of the layers are proportional."""

    def fixed(self, layers: Mapping[str, LayerUnits]) -> dict[str, int]:
        """Return how many units are kept by each layer that has a density of its own."""
        return {}

    def bounds(self, layers: Mapping[str, LayerUnits]) -> dict[str, tuple[int, int]]:
        """Return the fixed number, if there is one, and the size of each layer."""
        fixed = self.fixed(layers)
        return {name: (max(layer.least, fixed.get(name, 0)), layer.units) for name, layer in layers.items()}

    def pools(self, layers: Mapping[str, LayerUnits], keep: int) -> dict[tuple[str, ...], int]:
        """Return a pool for each layer. Layers of a fixed number take more only when all others are dense."""
        shares, least, most = self._seats(layers)
        if keep > sum(most.values()):
            least, most = most, {name: layer.units for name, layer in layers.items()}
        return {(name,): number for name, number in apportion(shares, keep, least, most).items()}

    def ahead(self, layers: Mapping[str, LayerUnits], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the numbers by the order of apportionment, whatever the scores."""
        shares, least, most = self._seats(layers)
        ahead = seats_before_first(shares, least, most)
        return {name: number if most[name] else sum(most.values()) for name, number in ahead.items()}

    def _seats(self, layers: Mapping[str, LayerUnits]) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
        shares = {name: density * layers[name].units for name, density in self.proportions(layers).items()}
        least = {name: bound[0] for name, bound in self.bounds(layers).items()}
        fixed = self.fixed(layers)
        return shares, least, {name: least[name] if name in fixed else layers[name].units for name in layers}


class Uniform(LayerDensities):
    """One density for all layers, to within half a weight each.

    Example:
        >>> import torch
        >>> from spl.pruning import select
        >>> scores = {"fc1": torch.tensor([1.0, 2.0]), "fc2": torch.tensor([3.0, 4.0])}
        >>> select(scores, sparsity=0.5, scope=Uniform()).layer_sparsity()
        {'fc1': 0.5, 'fc2': 0.5}
    """

    def proportions(self, layers: Mapping[str, LayerUnits]) -> dict[str, float]:
        """Return equal numbers."""
        return dict.fromkeys(layers, 1.0)


class ERK(LayerDensities):
    """Erdős–Rényi-kernel: density ∝ (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w). Evci et al. 2020.

    Wide layers are sparser than narrow ones. The ratio of a bias is n_out/n_out = 1, above that of almost any weight,
    so biases stay dense the longest if they are pruned at all.

    Example:
        >>> import torch
        >>> from spl.pruning import select
        >>> scores = {"wide": torch.rand(100, 100), "narrow": torch.rand(10, 100)}
        >>> select(scores, sparsity=0.9, scope=ERK()).layer_sparsity()
        {'wide': 0.929, 'narrow': 0.61}
    """

    def proportions(self, layers: Mapping[str, LayerUnits]) -> dict[str, float]:
        """Return the sum of the sides over their product."""
        return {name: sum(layer.shape) / math.prod(layer.shape) for name, layer in layers.items()}


class SmartRatio(LayerDensities):
    """Smart ratio: density ∝ (L − l + 1)² + (L − l + 1) at depth l = 1, …, L; 0.3 for the last layer. Su et al. 2020.

    Depth is the order of the parameters in the network. A bias has the density of the weight before it. The last
    layer keeps its own density until all others are dense, so that nothing is pruned at sparsity 0. (The authors' code
    gives 0.3 to every linear layer, and in networks other than ResNets it also divides the ratio by l².)

    Args:
        last: the density of the last layer.

    Example:
        >>> import torch
        >>> from spl.pruning import select
        >>> scores = {name: torch.rand(10, 10) for name in ("fc1", "fc2", "fc3")}
        >>> select(scores, sparsity=0.5, scope=SmartRatio()).layer_sparsity()
        {'fc1': 0.2, 'fc2': 0.6, 'fc3': 0.7}
    """

    def __init__(self, last: float = 0.3) -> None:
        if not 0.0 < last <= 1.0:
            raise InputError(f"last must lie in (0, 1], got {last}: it is the density of the last layer.")
        self.last = last

    def proportions(self, layers: Mapping[str, LayerUnits]) -> dict[str, float]:
        """Return numbers that depend only on depth."""
        depths = self._depths(layers)
        rest = {name: max(depths.values()) - depth + 1 for name, depth in depths.items()}
        return {name: float(r * r + r) for name, r in rest.items()}

    def fixed(self, layers: Mapping[str, LayerUnits]) -> dict[str, int]:
        """Return the number of units that the last layer keeps."""
        depths = self._depths(layers)
        end = max(depths.values())
        return {name: round(self.last * layers[name].units) for name, depth in depths.items() if depth == end}

    def _depths(self, layers: Mapping[str, LayerUnits]) -> dict[str, int]:
        depths, depth = {}, 0
        for name, layer in layers.items():
            depth += len(layer.shape) > 1
            depths[name] = max(depth, 1)
        return depths


class GivenDensities(LayerDensities):
    """Densities by name: layers that are named have exactly these, and the others share the rest uniformly.

    The early rounds of a schedule keep more weights; there the named layers are filled last.

    Args:
        densities: densities by shell patterns of full parameter names, such as `fc1.*` or `*.bias`. The first pattern
            that matches a name counts.

    Example:
        >>> import torch
        >>> from spl.pruning import select
        >>> scores = {name: torch.rand(10, 10) for name in ("fc1", "fc2", "fc3")}
        >>> select(scores, sparsity=0.8, scope=GivenDensities({"fc3": 0.5})).layer_sparsity()
        {'fc1': 0.95, 'fc2': 0.95, 'fc3': 0.5}
    """

    def __init__(self, densities: dict[str, float]) -> None:
        for pattern, density in densities.items():
            if not 0.0 <= density <= 1.0:
                raise InputError(
                    f"densities: {pattern!r} must have a density in [0, 1], got {density}: 0.1 is sparsity 0.9."
                )
        self.densities = dict(densities)

    def proportions(self, layers: Mapping[str, LayerUnits]) -> dict[str, float]:
        """Return equal numbers; they matter for the layers that are not named."""
        return dict.fromkeys(layers, 1.0)

    def fixed(self, layers: Mapping[str, LayerUnits]) -> dict[str, int]:
        """Return the number of units that each named layer keeps."""
        for pattern in self.densities:
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise InputError(f"densities: {pattern!r} matches none of the parameters {', '.join(layers)}.")
        found = {}
        for name, layer in layers.items():
            density = next((d for pattern, d in self.densities.items() if fnmatchcase(name, pattern)), None)
            if density is not None:
                found[name] = round(density * layer.units)
                if found[name] < layer.least:
                    raise InputError(
                        f"{name}: density {density:g} keeps {found[name]} of {layer.units}, but pattern or minimum "
                        f"keep {layer.least} at least: raise the density, or leave the layer out of densities."
                    )
        return found

    def bounds(self, layers: Mapping[str, LayerUnits]) -> dict[str, tuple[int, int]]:
        """Return bounds that hold named layers to exactly their fixed number."""
        fixed = self.fixed(layers)
        return {n: (fixed[n], fixed[n]) if n in fixed else (layer.least, layer.units) for n, layer in layers.items()}
