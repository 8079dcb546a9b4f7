"""Scopes: how many weights each layer keeps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor

from spl.errors import InputError
from spl.masks.top_k import ranks_of_largest
from spl.pruning.apportionment import apportion, seats_before_first


class Layer(NamedTuple):
    """What a scope is told of a layer.

    Attributes:
        shape: of its weight, [out, in, ...], or of its bias, [out].
        units: how many weights, or groups of weights that go together, can be kept of it.
        least: how many of them are kept in any case.
    """

    shape: tuple[int, ...]
    units: int
    least: int = 0


class Scope(ABC):
    """Divides the weights that are kept among the layers; a larger total never takes one from a layer."""

    @abstractmethod
    def pools(self, layers: Mapping[str, Layer], keep: int) -> dict[tuple[str, ...], int]:
        """How many units are kept of the layers in each pool, inside which scores are compared.

        Args:
            layers: by parameter name.
            keep: the sum of all.
        """

    def bounds(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        """How many units each layer keeps at least and at most."""
        return {name: (layer.least, layer.units) for name, layer in layers.items()}

    @abstractmethod
    def ahead(self, layers: Mapping[str, Layer], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """How many units are kept before the first one of each layer that keeps none in any case."""


class Global(Scope):
    """No layer has a number of its own: scores are compared over all of them, as they are."""

    def pools(self, layers: Mapping[str, Layer], keep: int) -> dict[tuple[str, ...], int]:
        """One pool."""
        return {tuple(layers): keep}

    def ahead(self, layers: Mapping[str, Layer], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """The ranks of the largest scores."""
        return ranks_of_largest(scores)


class LayerDensities(Scope):
    """Every layer keeps its largest scores, and how many these are depends on the layers alone, not on the scores.

    What is kept is apportioned by Webster's method, in proportion to densities and sizes; what dense layers cannot
    take goes to the others, so the total is exact.
    """

    @abstractmethod
    def proportions(self, layers: Mapping[str, Layer]) -> dict[str, float]:
        """Numbers that the densities of the layers are proportional to."""

    def fixed(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        """How many units the layers keep that have a density of their own."""
        return {}

    def bounds(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        """From the fixed number, where there is one, to the size."""
        fixed = self.fixed(layers)
        return {name: (max(layer.least, fixed.get(name, 0)), layer.units) for name, layer in layers.items()}

    def pools(self, layers: Mapping[str, Layer], keep: int) -> dict[tuple[str, ...], int]:
        """A pool for each layer; where all others are dense, the fixed ones take the rest."""
        shares, least, most = self._seats(layers)
        if keep > sum(most.values()):
            least, most = most, {name: layer.units for name, layer in layers.items()}
        return {(name,): number for name, number in apportion(shares, keep, least, most).items()}

    def ahead(self, layers: Mapping[str, Layer], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """By the order of apportionment; the scores do not matter."""
        shares, least, most = self._seats(layers)
        ahead = seats_before_first(shares, least, most)
        return {name: number if most[name] else sum(most.values()) for name, number in ahead.items()}

    def _seats(self, layers: Mapping[str, Layer]) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
        shares = {name: density * layers[name].units for name, density in self.proportions(layers).items()}
        least = {name: bound[0] for name, bound in self.bounds(layers).items()}
        fixed = self.fixed(layers)
        return shares, least, {name: least[name] if name in fixed else layers[name].units for name in layers}


class Uniform(LayerDensities):
    """All layers have one density, to within half a weight each."""

    def proportions(self, layers: Mapping[str, Layer]) -> dict[str, float]:
        """Equal ones."""
        return dict.fromkeys(layers, 1.0)


class ERK(LayerDensities):
    """Erdős–Rényi-kernel: density ∝ (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w). Evci et al. 2020.

    Wide layers are sparser than narrow ones. Of a bias the ratio is n_out/n_out = 1, above that of almost any weight:
    biases, where they are pruned at all, stay dense the longest.
    """

    def proportions(self, layers: Mapping[str, Layer]) -> dict[str, float]:
        """The sum of the sides over their product."""
        return {name: sum(layer.shape) / math.prod(layer.shape) for name, layer in layers.items()}


class SmartRatio(LayerDensities):
    """Smart ratio: density ∝ (L − l + 1)² + (L − l + 1) at depth l = 1, …, L, of the last layer 0.3. Su et al. 2020.

    Depth is the order of the parameters in the network; a bias has the density of the weight before it. The last
    layer's own density holds until all others are dense, so that at sparsity 0 nothing is pruned. (The authors' code
    gives 0.3 to every linear layer, and of networks other than ResNets divides the ratio by l² besides.)

    Args:
        last: density of the last layer.
    """

    def __init__(self, last: float = 0.3) -> None:
        if not 0.0 < last <= 1.0:
            raise InputError(f"last must lie in (0, 1], got {last}: it is the density of the last layer.")
        self.last = last

    def proportions(self, layers: Mapping[str, Layer]) -> dict[str, float]:
        """By depth alone."""
        depths = self._depths(layers)
        rest = {name: max(depths.values()) - depth + 1 for name, depth in depths.items()}
        return {name: float(r * r + r) for name, r in rest.items()}

    def fixed(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        """Those of the last layer."""
        depths = self._depths(layers)
        end = max(depths.values())
        return {name: round(self.last * layers[name].units) for name, depth in depths.items() if depth == end}

    def _depths(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        depths, depth = {}, 0
        for name, layer in layers.items():
            depth += len(layer.shape) > 1
            depths[name] = max(depth, 1)
        return depths


class GivenDensities(LayerDensities):
    """Densities by name: the layers that are named have exactly these, the others share what is left uniformly.

    In the early rounds of a schedule, which keep more, the named layers are filled last.

    Args:
        densities: by shell patterns over full parameter names, such as fc1.* or *.bias; the first that matches counts.
    """

    def __init__(self, densities: dict[str, float]) -> None:
        for pattern, density in densities.items():
            if not 0.0 <= density <= 1.0:
                raise InputError(
                    f"densities: {pattern!r} must have a density in [0, 1], got {density}: 0.1 is sparsity 0.9."
                )
        self.densities = dict(densities)

    def proportions(self, layers: Mapping[str, Layer]) -> dict[str, float]:
        """Equal ones for the layers that are not named."""
        return dict.fromkeys(layers, 1.0)

    def fixed(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        """Those of the layers that are named."""
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

    def bounds(self, layers: Mapping[str, Layer]) -> dict[str, tuple[int, int]]:
        """Of the layers that are named no more than the fixed number, either."""
        fixed = self.fixed(layers)
        return {n: (fixed[n], fixed[n]) if n in fixed else (layer.least, layer.units) for n, layer in layers.items()}
