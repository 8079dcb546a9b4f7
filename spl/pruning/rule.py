"""The rule that turns scores into masks, and the number of weights that a sparsity keeps."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spl.criteria import Scores
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered, top_k
from spl.pruning.pattern import Pattern, Shape
from spl.pruning.patterns import Unstructured
from spl.pruning.scopes import Global, LayerUnits, Scope


def check_sparsity(sparsity: float) -> None:
    """Raise an `InputError` unless `sparsity` lies in [0, 1).

    Example:
        >>> check_sparsity(0.9)
        >>> check_sparsity(90)
        Traceback (most recent call last):
        spl.errors.InputError: sparsity must lie in [0, 1), got 90: it is the share of weights removed, 0.9 for 90 %.
    """
    if not 0.0 <= sparsity < 1.0:
        raise InputError(
            f"sparsity must lie in [0, 1), got {sparsity}: it is the share of weights removed, 0.9 for 90 %."
        )


def keep_count(size: int, sparsity: float) -> int:
    """Return κ = round(m (1 − κ̄)), the number of weights that the sparsity κ̄ keeps of m = `size`.

    Raises:
        InputError: `sparsity` lies outside [0, 1), or keeps no weight at all.

    Example:
        >>> keep_count(1000, sparsity=0.9)
        100
    """
    check_sparsity(sparsity)
    keep = round(size * (1.0 - sparsity))
    if keep == 0:
        raise InputError(f"sparsity {sparsity} keeps none of {size} weights: at most {1 - 1 / size:.12g} keeps one.")
    return keep


@dataclass(frozen=True)
class Rule:
    """The rule by which weights are kept, given the scores of the units that the pattern keeps or prunes as a whole.

    Args:
        scope: how the kept weights are divided among the layers (the sparsity distribution).
        pattern: which weights are kept or pruned together (the sparsity type).
        minimum: the number of weights that every layer keeps in any case: those of its largest scores.

    Example:
        >>> import torch
        >>> from spl.pruning.patterns import NM
        >>> rule = Rule(pattern=NM(n=2, m=4))
        >>> rule.masks({"weight": torch.tensor([[3.0, 1.0, 2.0, 0.0]])}, {"weight": (1, 4)}, keep=2)["weight"]
        tensor([[ True, False,  True, False]])
    """

    scope: Scope = Global()
    pattern: Pattern = Unstructured()
    minimum: int = 0

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise InputError(f"minimum must be at least 0, got {self.minimum}.")

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Raise an `InputError` if no scores let `keep` weights be kept of layers of these shapes."""
        self.pattern.check(shapes, keep)
        if self.pattern.coupled:  # the network decides how many weights its channels have; see `CoupledRule.masks`
            return
        layers = self._layers(shapes)
        bounds = self.scope.bounds(layers)
        # units of different sizes count with their mean size here; `masks` counts those that are kept
        mean = {name: math.prod(shape) / layers[name].units for name, shape in shapes.items()}
        least, most = (int(sum(bounds[name][i] * mean[name] for name in shapes)) for i in (0, 1))
        size = sum(math.prod(shape) for shape in shapes.values())
        if keep < least:
            raise self._out_of_bounds(keep, least, size, "least", "most")
        if keep >= most + min(mean.values()) and most < size:
            raise self._out_of_bounds(keep, most, size, "most", "least")

    def pooled(self, scores: Scores) -> Scores:
        """Return the scores of the units, from the scores of the weights."""
        return {name: self.pattern.pooled(score) for name, score in scores.items()}

    def alive(self, masks: Masks) -> Masks:
        """Return the units that `masks` keep; all of them are kept as a whole."""
        units = {name: self.pattern.pooled(mask) for name, mask in masks.items()}
        return Masks({name: unit if unit.dtype == torch.bool else unit > 0 for name, unit in units.items()})

    def could_have_made(self, shapes: Mapping[str, Shape], keep: int, kept: int) -> bool:
        """Return whether this rule, asked for `keep` weights, can have made masks that keep `kept`."""
        sizes = [1 if (size := self.pattern.sizes(s)) is None else int(size.max()) for s in shapes.values()]
        # a coupled channel has at most a row and a column of each weight
        columns = [math.prod(shape) // shape[min(1, len(shape) - 1)] for shape in shapes.values()]
        largest = sum(sizes) + sum(columns) if self.pattern.coupled else max(1, *sizes)
        return keep - largest < kept <= keep

    def masks(self, scores: Scores, shapes: Mapping[str, Shape], keep: int, among: Masks | None = None) -> Masks:
        """Return masks of the weights, on the CPU.

        They keep exactly `keep` weights, or as many as whole units allow. Masks that keep fewer weights are contained
        in masks that keep more.

        Args:
            scores: the score of each unit (see `Pattern.pooled`), by parameter name.
            shapes: the shapes of the weights.
            keep: the number of weights to keep.
            among: the units that may be kept; None for all.

        Raises:
            InputError: NaN or infinite scores, or a number that cannot be kept.
        """
        layers = self._layers(shapes)
        first = self._first(scores, layers, among)
        weight = self._weight(scores, layers, first, among)
        least = sum(bound[0] for bound in self.scope.bounds(layers).values())
        units = sum(s.numel() for s in scores.values()) if among is None else among.kept
        number = bisect_right(range(units + 1), keep, lo=least, key=weight) - 1
        if number < max(least, 1):
            size = sum(math.prod(shape) for shape in shapes.values())
            raise self._out_of_bounds(keep, weight(max(least, 1)), size, "least", "most")
        kept: dict[str, Tensor] = {}
        for names, number_of_pool in self.scope.pools(layers, number).items():
            kept |= _best({name: scores[name] for name in names}, number_of_pool, first, among)
        return Masks({name: self.pattern.spread(kept[name], shapes[name]) for name in scores})

    def collapse_sparsities(self, scores: Scores, shapes: Mapping[str, Shape]) -> dict[str, float]:
        """Return by layer the overall sparsity from which on it has no weight left; 1 if it always has. Skip biases."""
        if self.pattern.coupled:
            return {name: 1.0 for name, shape in shapes.items() if len(shape) > 1}
        layers = self._layers(shapes)
        weight = self._weight(scores, layers, None, None)  # a layer that keeps some in any case is never empty
        size = sum(math.prod(shape) for shape in shapes.values())
        kept = {name: bound[0] for name, bound in self.scope.bounds(layers).items()}
        ahead = self.scope.ahead(layers, scores)
        return {
            name: 1.0 if kept[name] else 1.0 - (weight(ahead[name] + 1) - 1) / size
            for name, shape in shapes.items()
            if len(shape) > 1
        }

    def _layers(self, shapes: Mapping[str, Shape]) -> dict[str, LayerUnits]:
        layers = {}
        for name, shape in shapes.items():
            units, sizes = self.pattern.units(shape), self.pattern.sizes(shape)
            smallest = 1 if sizes is None else int(sizes.min())
            least = max(self.pattern.least(shape), min(units, -(-self.minimum // smallest)))
            layers[name] = LayerUnits(tuple(shape), units, least)
        return layers

    def _first(self, scores: Scores, layers: Mapping[str, LayerUnits], among: Masks | None) -> Masks | None:
        """Return the units that are kept before all others: as many of each layer as it keeps in any case."""
        if not any(layer.least for layer in layers.values()):
            return None
        check_finite(scores)  # NaN would be ranked first
        first: dict[str, Tensor] = {}
        for name, score in scores.items():
            of_pattern = self.pattern.first(lowered({name: score.detach().cpu()}, among)[name])
            mask = None if of_pattern is None else Masks({name: of_pattern})
            first |= _best({name: score}, layers[name].least, mask, among)
        return Masks(first)

    def _weight(
        self, scores: Scores, layers: Mapping[str, LayerUnits], first: Masks | None, among: Masks | None
    ) -> Callable[[int], int]:
        """Return a function from a number of kept units to the number of their weights."""
        sizes = {name: self.pattern.sizes(layer.shape) for name, layer in layers.items()}
        held = {name: size.flatten() for name, size in sizes.items() if size is not None}
        if not held:
            return lambda number: number
        ranked = lowered(scores, among)
        if first is not None:
            ranked = {name: s.masked_fill(first[name].to(s.device), math.inf) for name, s in ranked.items()}

        @cache
        def cumulative(pool: tuple[str, ...]) -> Tensor:
            order = torch.cat([ranked[name].flatten().cpu() for name in pool]).argsort(descending=True, stable=True)
            return F.pad(torch.cat([held[name] for name in pool])[order].cumsum(0), (1, 0))

        return lambda number: sum(int(cumulative(p)[n]) for p, n in self.scope.pools(layers, number).items())

    def _out_of_bounds(self, keep: int, bound: int, size: int, which: str, advice: str) -> InputError:
        choices = f"scope {type(self.scope).__name__}, pattern {type(self.pattern).__name__} and minimum {self.minimum}"
        return InputError(
            f"{keep} of {size} weights are to be kept, but {choices} keep at {which} {bound}: ask for a sparsity of at "
            f"{advice} {1 - bound / size:.12g}."
        )


def _best(scores: Scores, keep: int, first: Masks | None, among: Masks | None) -> dict[str, Tensor]:
    """Return the units of the largest scores among those that are alive, after those that come first."""
    alive = None if among is None else {name: among[name] for name in scores}
    if first is None:
        return dict(top_k(scores, keep, None if alive is None else Masks(alive)))
    rest = Masks({n: ~first[n] if alive is None else alive[n] & ~first[n] for n in scores})
    chosen = top_k(scores, keep - sum(int(first[name].count_nonzero()) for name in scores), rest)
    return {name: mask | first[name] for name, mask in chosen.items()}


def select(scores: Scores, sparsity: float, **rule: Any) -> Masks:
    """Return masks that keep round(m (1 − sparsity)) weights: those of the largest scores.

    Args:
        scores: one tensor for each parameter name, in the shape of the parameter.
        sparsity: κ̄ in [0, 1), over all scores together.
        rule: `scope`, `pattern` and `minimum`; see `Rule`. A pattern says which numbers cannot be met exactly.

    Raises:
        InputError: scores are NaN or infinite, or the rule cannot have that sparsity.

    Example:
        >>> import torch
        >>> select({"weight": torch.tensor([[0.1, 0.4], [0.3, 0.2]])}, sparsity=0.5)["weight"]
        tensor([[False,  True],
                [ True, False]])
    """
    selecting = Rule(**rule)
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    keep = keep_count(sum(math.prod(shape) for shape in shapes.values()), sparsity)
    selecting.check(shapes, keep)
    return selecting.masks(selecting.pooled(scores), shapes, keep)
