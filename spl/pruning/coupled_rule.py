"""The rule that keeps or prunes coupled channels as one."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from spl.criteria import Scores
from spl.criteria.objective import first_tensor
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered
from spl.pruning.choices import PruningChoices
from spl.pruning.coupling import STAYS, Coupling, find_coupling
from spl.pruning.pattern import Shape
from spl.pruning.rule import Rule
from spl.pruning.scopes import LayerUnits, Scope


@dataclass(frozen=True)
class CoupledRule:
    """The rule by which coupled channels are kept, given the scores of the weights; it stands in for a `Rule`.

    The score of a channel is the mean of the scores of all weights that write to it or read it. The scope divides the
    channels among the groups; the shape of a group is that of its first weight. At least one channel of each stays. A
    head of attention counts as one channel.

    Args:
        scope: how the channels are divided among the groups.
        coupling: the channels of the network.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.pruning.coupled_rule import CoupledRule
        >>> from spl.pruning.coupling import find_coupling
        >>> from spl.pruning.scopes import Global
        >>> network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> weights = {name: p.detach() for name, p in network.named_parameters() if p.ndim > 1}
        >>> rule = CoupledRule(Global(), find_coupling(network, torch.randn(1, 3), weights))
        >>> shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        >>> rule.masks(rule.pooled({"0.weight": torch.ones(4, 3), "2.weight": torch.eye(4)[2:]}), shapes, keep=10)
        Masks(3 parameters, kept 12 of 24, sparsity 0.5000)
    """

    scope: Scope
    coupling: Coupling

    def pooled(self, scores: Scores) -> Scores:
        """Return the score of each channel, by group, from the scores of the weights."""
        sums = torch.zeros(self.coupling.count, dtype=torch.float64)
        counts = torch.zeros(self.coupling.count, dtype=torch.float64)
        for name, score in scores.items():
            for axis, channels in enumerate(self._sides(name)):
                lines = score.detach().movedim(axis, 0).flatten(1) if score.ndim > 1 else score.detach()[:, None]
                here = channels != STAYS
                sums.index_add_(0, channels[here], lines.sum(1, dtype=torch.float64).cpu()[here])
                counts += torch.bincount(channels[here], minlength=len(counts)) * lines.shape[1]
        means = sums / counts
        return {name: means[channels] for name, channels in self.coupling.groups.items()}

    def spread(self, scores: Scores, shapes: Mapping[str, Shape]) -> Scores:
        """Return for each weight the scores [out, 1] of the channels that it writes to; those that stay have the best.

        These are the scores that `Channels` would have pooled.
        """
        flat = torch.cat([scores[name] for name in self.coupling.groups]).max().repeat(self.coupling.count + 1)
        for name, channels in self.coupling.groups.items():
            flat[channels] = scores[name]
        return {name: flat[self.coupling.rows[name]][:, None] for name in shapes}

    def alive(self, masks: Masks) -> Masks:
        """Return the channels that `masks` keep, by group."""
        kept = torch.zeros(self.coupling.count + 1, dtype=torch.bool)
        for name in self.coupling.rows:
            mask = masks[name]
            rows = mask.cpu().flatten(1).any(1) if mask.ndim > 1 else mask.cpu()
            kept[self.coupling.rows[name][rows]] = True
        return Masks({name: kept[channels] for name, channels in self.coupling.groups.items()})

    def masks(self, scores: Scores, shapes: Mapping[str, Shape], keep: int, among: Masks | None = None) -> Masks:
        """Return masks of the weights, and of the biases and normalizations of their channels, on the CPU.

        They keep at most `keep` weights, and more with the next channel. A weight is kept if both the channel that it
        writes to and the channel that it reads are. Biases and normalizations do not count.

        Args:
            scores: the score of each channel, by group.
            shapes: the shapes of the weights.
            keep: the number of weights to keep.
            among: the channels that may be kept; None for all.

        Raises:
            InputError: NaN or infinite scores, or a number that cannot be kept.
        """
        check_finite(scores)
        kept_of = self._selection(scores, shapes, among)
        most = self.coupling.count if among is None else among.kept

        @cache
        def weight(number: int) -> int:
            kept = kept_of(number)
            return sum(self._count(kept, name, shape) for name, shape in shapes.items())

        number = bisect_right(range(most + 1), keep, lo=len(scores), key=weight) - 1
        if number < len(scores):
            size = sum(math.prod(shape) for shape in shapes.values())
            raise InputError(
                f"{keep} of {size} weights are to be kept, but one coupled channel of each group keeps "
                f"{weight(len(scores))}: ask for a sparsity of at most {1 - weight(len(scores)) / size:.12g}."
            )
        kept = kept_of(number)
        vectors = {name: kept[channels] for name, channels in self.coupling.vectors.items()}
        return Masks({name: self._mask(kept, name, shape) for name, shape in shapes.items()} | vectors)

    def _selection(self, scores: Scores, shapes: Mapping[str, Shape], among: Masks | None) -> Callable[[int], Tensor]:
        """Return a function from a number of channels to a bool tensor [channels + 1]: those kept, and True."""
        ranked = {name: score.clone() for name, score in lowered(scores, among).items()}
        for score in ranked.values():
            score[score.argmax()] = math.inf
        layers = {name: LayerUnits(tuple(shapes[name]), len(score), 1) for name, score in scores.items()}

        @cache
        def order(pool: tuple[str, ...]) -> Tensor:
            best = torch.cat([ranked[name] for name in pool]).argsort(descending=True, stable=True)
            return torch.cat([self.coupling.groups[name] for name in pool])[best]

        def kept_of(number: int) -> Tensor:
            kept = torch.zeros(self.coupling.count + 1, dtype=torch.bool)
            kept[STAYS] = True
            for pool, of_pool in self.scope.pools(layers, number).items():
                kept[order(pool)[:of_pool]] = True
            return kept

        return kept_of

    def _sides(self, name: str) -> list[Tensor]:
        """Return the channels of the rows and, if they are known, of the columns of a weight."""
        return [side[name] for side in (self.coupling.rows, self.coupling.columns) if name in side]

    def _count(self, kept: Tensor, name: str, shape: Shape) -> int:
        sides = self._sides(name)
        return math.prod(int(kept[channels].sum()) for channels in sides) * math.prod(shape[len(sides) :])

    def _mask(self, kept: Tensor, name: str, shape: Shape) -> Tensor:
        mask = torch.ones(shape, dtype=torch.bool)
        for axis, channels in enumerate(self._sides(name)):
            mask &= kept[channels].view(-1, *(1,) * (len(shape) - 1 - axis))
        return mask


def rule_of(
    choices: PruningChoices, network: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any]
) -> Rule | CoupledRule:
    """Return the rule that the choices make: one of coupled channels if these are asked for, else the choices.

    Args:
        choices: what was chosen.
        network: the network.
        weights: the weights that are scored, by name.
        batches: batches whose first tensor is one batch of inputs, if there are any; else the inputs are the
            `example_input_array` of the network.

    Raises:
        InputError: the network cannot be traced, or there are no inputs to trace it with.
    """
    if not choices.pattern.coupled:
        return choices
    if choices.minimum:
        raise InputError(
            f"minimum={choices.minimum} counts weights of single layers, and coupled channels are those of several; at "
            "least one of each group stays. Leave minimum out."
        )
    example = getattr(network, "example_input_array", None)
    if not isinstance(batches, Iterator) and (batch := next(iter(batches), None)) is not None:
        example = first_tensor(batch)
    if not isinstance(example, Tensor):
        raise InputError(
            "Channels(coupled=True) traces the network for one batch of inputs, and got none: pass batches as a list "
            "or a DataLoader, or set the network's example_input_array."
        )
    device = next(iter(weights.values())).device
    return CoupledRule(choices.scope, find_coupling(network, example[:2].to(device), weights))
