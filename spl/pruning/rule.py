"""Rule: which weights are kept, given scores."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spl.criteria import Scores
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered, top_k
from spl.pruning.patterns import Pattern, Shape, Unstructured
from spl.pruning.scopes import Global, Layer, Scope
from spl.pruning.sparsity import keep_count


@dataclass(frozen=True)
class Rule:
    """Which weights are kept, given the scores of the units that the pattern keeps or prunes as a whole.

    Args:
        scope: how many each layer keeps.
        pattern: what is kept or pruned together.
        minimum: how many weights every layer keeps in any case, those of its largest scores.
    """

    scope: Scope = Global()  # noqa: RUF009 (without state)
    pattern: Pattern = Unstructured()  # noqa: RUF009 (without state)
    minimum: int = 0

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise InputError(f"minimum must be at least 0, got {self.minimum}.")

    def check(self, shapes: Mapping[str, Shape], keep: int) -> None:
        """Raise an `InputError` where `keep` weights of layers of these shapes cannot be kept, whatever the scores."""
        self.pattern.check(shapes, keep)
        layers = self._layers(shapes)
        bounds = self.scope.bounds(layers)
        # units of several sizes count by their mean here; `masks` counts those that are kept
        mean = {name: math.prod(shape) / layers[name].units for name, shape in shapes.items()}
        least, most = (int(sum(bounds[name][i] * mean[name] for name in shapes)) for i in (0, 1))
        size = sum(math.prod(shape) for shape in shapes.values())
        if keep < least:
            raise self._out_of_bounds(keep, least, size, "least", "most")
        if keep >= most + min(mean.values()) and most < size:
            raise self._out_of_bounds(keep, most, size, "most", "least")

    def pooled(self, scores: Scores) -> Scores:
        """The scores of the units, from those of the weights."""
        return {name: self.pattern.pooled(score) for name, score in scores.items()}

    def alive(self, masks: Masks) -> Masks:
        """The units that `masks` keep, which are whole ones."""
        units = {name: self.pattern.pooled(mask) for name, mask in masks.items()}
        return Masks({name: unit if unit.dtype == torch.bool else unit > 0 for name, unit in units.items()})

    def made(self, shapes: Mapping[str, Shape], keep: int, kept: int) -> bool:
        """Whether masks that keep `kept` weights can be those of a rule that was asked for `keep`."""
        largest = max(1 if (size := self.pattern.sizes(s)) is None else int(size.max()) for s in shapes.values())
        return keep - largest < kept <= keep

    def masks(self, scores: Scores, shapes: Mapping[str, Shape], keep: int, among: Masks | None = None) -> Masks:
        """Masks of the weights on the CPU.

        Exactly `keep` of them are kept, or as many as whole units allow; the masks of fewer are contained in those of
        more.

        Args:
            scores: of each unit (`Pattern.pooled`), by parameter name.
            shapes: of the weights.
            keep: number of weights.
            among: the units that are alive; all without it.

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
        """From which sparsity of all layers together on each one is empty; 1 where it never is. Biases do not count."""
        layers = self._layers(shapes)
        weight = self._weight(scores, layers, None, None)  # where something comes first, no layer is ever empty
        size = sum(math.prod(shape) for shape in shapes.values())
        kept = {name: bound[0] for name, bound in self.scope.bounds(layers).items()}
        ahead = self.scope.ahead(layers, scores)
        return {
            name: 1.0 if kept[name] else 1.0 - (weight(ahead[name] + 1) - 1) / size
            for name, shape in shapes.items()
            if len(shape) > 1
        }

    def _layers(self, shapes: Mapping[str, Shape]) -> dict[str, Layer]:
        layers = {}
        for name, shape in shapes.items():
            units, sizes = self.pattern.units(shape), self.pattern.sizes(shape)
            smallest = 1 if sizes is None else int(sizes.min())
            least = max(self.pattern.least(shape), min(units, -(-self.minimum // smallest)))
            layers[name] = Layer(tuple(shape), units, least)
        return layers

    def _first(self, scores: Scores, layers: Mapping[str, Layer], among: Masks | None) -> Masks | None:
        """The units that are kept before all others, as many of each layer as it keeps in any case."""
        if not any(layer.least for layer in layers.values()):
            return None
        check_finite(scores)  # not a number would come first
        first: dict[str, Tensor] = {}
        for name, score in scores.items():
            of_pattern = self.pattern.first(lowered({name: score.detach().cpu()}, among)[name])
            mask = None if of_pattern is None else Masks({name: of_pattern})
            first |= _best({name: score}, layers[name].least, mask, among)
        return Masks(first)

    def _weight(
        self, scores: Scores, layers: Mapping[str, Layer], first: Masks | None, among: Masks | None
    ) -> Callable[[int], int]:
        """How many weights are kept with a number of units."""
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
    """The units of largest score among those that are alive, after those that come first."""
    alive = None if among is None else {name: among[name] for name in scores}
    if first is None:
        return dict(top_k(scores, keep, None if alive is None else Masks(alive)))
    rest = Masks({n: ~first[n] if alive is None else alive[n] & ~first[n] for n in scores})
    chosen = top_k(scores, keep - sum(int(first[name].count_nonzero()) for name in scores), rest)
    return {name: mask | first[name] for name, mask in chosen.items()}


def select(
    scores: Scores,
    sparsity: float,
    scope: Scope = Global(),  # noqa: B008 (without state)
    pattern: Pattern = Unstructured(),  # noqa: B008 (without state)
    minimum: int = 0,
) -> Masks:
    """Masks that keep round(m (1 − sparsity)) weights, those of the largest scores.

    Args:
        scores: one tensor per parameter name, in the shape of the parameter.
        sparsity: κ̄ in [0, 1), over all scores together.
        scope: how many each layer keeps.
        pattern: what is kept or pruned together; see there for numbers that cannot be met exactly.
        minimum: how many weights every layer keeps in any case.

    Raises:
        InputError: NaN or infinite scores, or a sparsity that these choices cannot have.
    """
    rule = Rule(scope, pattern, minimum)
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    keep = keep_count(sum(math.prod(shape) for shape in shapes.values()), sparsity)
    rule.check(shapes, keep)
    return rule.masks(rule.pooled(scores), shapes, keep)
