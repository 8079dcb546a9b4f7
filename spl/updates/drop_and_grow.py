"""The update that drops kept weights of each layer and grows as many others in it."""

import numpy as np
import torch
from torch import Tensor

from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning.pattern import Pattern
from spl.pruning.patterns import Unstructured
from spl.updates.fractions import Fraction
from spl.updates.scores import Score
from spl.updates.structure import structure_of
from spl.updates.update import Snapshot, Update

_STRIDE = 16  # one in so many scores is in the sample that bounds the largest


class DropAndGrow(Update):
    """Drop a fraction of the kept weights of each layer, and grow as many of those that were pruned.

    A layer of κ kept weights drops round(α κ) of them, but never more than it has pruned weights. What is dropped does
    not grow back in the same update. Of equal scores the weight of the lowest index comes first. A layer rests if it
    has no gradient in the step, or if the optimizer does not train it.

    Args:
        drop: scores the kept weights; those of the largest scores are dropped.
        grow: scores the pruned weights; those of the largest scores grow, from 0.
        schedule: the fraction as a function of `fraction` and the progress in [0, 1].
        fraction: the first fraction α.
        every: the number of steps between two updates.
        until: the share of all steps after which the masks rest.

    Raises:
        InputError: a number is out of range.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import DropAndGrow, Snapshot, constant, largest_gradient, smallest_magnitude
        >>> update = DropAndGrow(smallest_magnitude, largest_gradient, constant, fraction=0.5)
        >>> masks = Masks({"weight": torch.tensor([True, True, False, False])})
        >>> weights, gradients = torch.tensor([0.1, 0.9, 0.0, 0.0]), torch.tensor([9.0, 0.0, 1.0, 2.0])
        >>> update.masks(Snapshot(masks, {"weight": weights}, {"weight": gradients}, masks, 1, 1))["weight"]
        tensor([False,  True, False,  True])
    """

    def __init__(
        self,
        drop: Score,
        grow: Score,
        schedule: Fraction,
        fraction: float = 0.3,
        every: int = Update.every,
        until: float = Update.until,
    ) -> None:
        super().__init__(every, until)
        if not 0.0 < fraction <= 1.0:
            raise InputError(f"fraction must lie in (0, 1], got {fraction}: it is the share of kept weights that move.")
        self.drop = drop
        self.grow = grow
        self.schedule = schedule
        self.fraction = fraction

    def masks(self, now: Snapshot) -> Masks:
        """Return the masks after dropping and growing in each layer."""
        fraction = self.schedule(self.fraction, now.progress)
        moved = {}
        for name in now.gradients:
            kept = now.masks[name]
            alive = int(kept.count_nonzero())
            count = min(round(fraction * alive), kept.numel() - alive)
            if count:
                mask = kept.flatten().clone()
                mask[_largest(self.drop(now, name), count, kept)] = False
                mask[_largest(self.grow(now, name), count, ~kept)] = True
                moved[name] = mask.view(kept.shape)
        return Masks(moved)

    def check(self, masks: Masks) -> None:
        """Raise an `InputError` for masks of whole groups of weights, wherever they come from."""
        if structure := structure_of(masks):
            raise self._refusal(f"their structure, {structure}")

    def check_pattern(self, pattern: Pattern) -> None:
        """Raise an `InputError` for masks of whole groups of weights, because single weights move."""
        if type(pattern) is not Unstructured:
            raise self._refusal(f"the pattern {type(pattern).__name__}")

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{type(self).__name__} moves single weights, so that the masks would lose {what}: use pattern "
            "Unstructured, or the update GMP with that pattern."
        )


def _largest(scores: Tensor, count: int, among: Tensor) -> Tensor:
    """Return the flat indices of the `count` largest scores where `among` is True; of equal ones, the lowest indices.

    A sample bounds the largest scores, so that only few have to be compared with each other. `spl.masks.top_k` does
    this for many layers together, in little memory, and takes longer; so would torch for a layer of usual size.
    """
    flat = scores.detach().flatten().cpu()
    places = np.flatnonzero(among.flatten().numpy())
    values = (flat.float() if flat.element_size() < 4 else flat).numpy()[places]  # numpy has no bfloat16
    sample = values[::_STRIDE]
    rank = 5 * count // (4 * _STRIDE) + 8
    if rank < len(sample):
        near = np.flatnonzero(values >= np.partition(sample, len(sample) - rank)[len(sample) - rank])
        if len(near) >= count:
            places, values = places[near], values[near]
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    chosen = values > threshold
    ties = np.flatnonzero(values == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return torch.from_numpy(places[chosen])
