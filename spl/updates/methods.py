"""Published methods that move masks: SET, RigL and GMP."""

from bisect import bisect_left

from spl.errors import InputError
from spl.masks.masks import Masks
from spl.masks.top_k import lowered, top_k
from spl.pruning import Rule, check_sparsity, keep_count
from spl.pruning.pattern import Pattern
from spl.pruning.patterns import Unstructured
from spl.pruning.scopes import Global, Scope
from spl.updates.drop_and_grow import DropAndGrow
from spl.updates.fractions import constant, cosine
from spl.updates.scores import at_random, largest_gradient, smallest_magnitude
from spl.updates.sparsities import cubic
from spl.updates.update import Snapshot, Update


class SET(DropAndGrow):
    """Sparse evolutionary training: drop the smallest weights of each layer, and grow others at random.

    Mocanu et al. 2018 update once an epoch, by 30 % of the weights, up to the end. They drop the smallest positive and
    the largest negative weights; here the smallest magnitudes are dropped.

    Args:
        every: the number of steps between two updates.
        fraction: the share of the kept weights of a layer that move.
        until: the share of all steps after which the masks rest.

    Example:
        >>> from spl.updates import SET
        >>> SET(every=50).is_due(100, steps=1000)
        True
    """

    def __init__(self, every: int = 100, fraction: float = 0.3, until: float = 1.0) -> None:
        super().__init__(smallest_magnitude, at_random, constant, fraction, every, until)


class RigL(DropAndGrow):
    """The rigged lottery: drop the smallest weights of each layer, and grow those of the largest gradients.

    The fraction falls along a cosine to 0 at the last update (Evci et al. 2020). They skip the optimizer's step in
    which the masks move; here it is taken, so the weights that have grown begin to train at once.

    Args:
        every: the number of steps between two updates.
        fraction: the share α of the kept weights of a layer that move in the beginning.
        until: the share of all steps after which the masks rest.

    Example:
        >>> from spl.updates import RigL
        >>> RigL(every=100, fraction=0.3, until=0.75).last_step(1000)
        750
    """

    def __init__(self, every: int = 100, fraction: float = 0.3, until: float = 0.75) -> None:
        super().__init__(smallest_magnitude, largest_gradient, cosine, fraction, every, until)


class GMP(Update):
    """Gradual magnitude pruning: prune the smallest weights, more and more, from the masks' own sparsity to a last one.

    The sparsity grows along the cubic schedule of Zhu & Gupta 2017, and is met exactly (as far as whole units of the
    pattern allow) at the last update. Nothing that is pruned comes back. To begin with a dense network, prune it to
    sparsity 0.

    Args:
        sparsity: the last sparsity, in [0, 1).
        every: the number of steps between two updates.
        until: the share of all steps after which the masks rest.
        scope: how the kept weights are divided among the layers (the sparsity distribution). Where the masks keep fewer
            weights of a layer than the scope grants it, other layers keep more.
        pattern: which weights are pruned together (the sparsity type).
        minimum: the number of weights that every layer keeps in any case.

    Raises:
        InputError: a number is out of range, or the pattern is one of coupled channels.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.updates import GMP, Snapshot
        >>> masks = Masks({"weight": torch.ones(4, dtype=torch.bool)})
        >>> now = Snapshot(masks, {"weight": torch.tensor([3.0, -1.0, 4.0, 1.5])}, {}, first=masks, step=10, end=10)
        >>> GMP(sparsity=0.5, every=5).masks(now)["weight"]
        tensor([ True, False,  True, False])
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        every: int = 100,
        until: float = 0.75,
        scope: Scope = Global(),
        pattern: Pattern = Unstructured(),
        minimum: int = 0,
    ) -> None:
        super().__init__(every, until)
        check_sparsity(sparsity)
        if pattern.coupled:
            raise InputError(
                f"GMP cannot prune coupled channels ({type(pattern).__name__}): their masks are found by following "
                "the network once. Use Channels(coupled=False), or prune before training."
            )
        self.sparsity = sparsity
        self.scope = scope
        self.pattern = pattern
        self.minimum = minimum

    def masks(self, now: Snapshot) -> Masks:
        """Return masks of the sparsity that the schedule has by now, among the weights that are kept."""
        last = now.end - now.end % self.every  # the last step of an update
        progress = min(1.0, now.step / last) if last else 1.0
        sparsity = cubic(now.first.sparsity, self.sparsity, progress)
        keep = max(round(now.masks.size * (1.0 - sparsity)), keep_count(now.masks.size, self.sparsity))
        return now.masks if keep >= now.masks.kept else self._largest(now, keep)

    def check(self, masks: Masks) -> None:
        """Raise an `InputError` for masks that are sparser than the last ones, or that the rule cannot bring there."""
        shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
        if (keep := keep_count(masks.size, self.sparsity)) > masks.kept:
            raise InputError(
                f"The masks have sparsity {masks.sparsity:.6g} already, and GMP prunes to {self.sparsity:.6g}: nothing "
                "that is pruned comes back. Begin with less (--pruning.sparsity 0 for a dense network), or let GMP end "
                "with more."
            )
        Rule(self.scope, self.pattern, self.minimum).check(shapes, keep)

    def _largest(self, now: Snapshot, keep: int) -> Masks:
        """Return masks of `keep` weights, or of as many as whole units allow, all of them kept now."""
        magnitudes = {name: now.weights[name].abs() for name in now.masks}
        if type(self.scope) is Global and type(self.pattern) is Unstructured and not self.minimum:
            return top_k(magnitudes, keep, now.masks)  # what the rule would find, without a look at pruned weights
        rule = Rule(self.scope, self.pattern, self.minimum)
        shapes = {name: tuple(mask.shape) for name, mask in now.masks.items()}
        units = rule.pooled(magnitudes)
        scores = lowered(units, rule.alive(now.masks))  # below all others, but there where a layer is granted more

        def kept(masks: Masks) -> Masks:
            return Masks({name: mask & now.masks[name] for name, mask in masks.items()})

        def number_kept(number: int) -> int:
            return kept(rule.masks(scores, shapes, number)).kept

        chosen = rule.masks(scores, shapes, keep)
        found = kept(chosen)
        if found.kept < chosen.kept:  # the scope grants a layer weights that were pruned before
            number = keep + bisect_left(range(keep, now.masks.size + 1), keep, key=number_kept)
            found = kept(rule.masks(scores, shapes, number))
            if found.kept > keep:  # of whole units
                found = kept(rule.masks(scores, shapes, number - 1))
        return found
