"""Controls: what a claim about a criterion has to beat. Wrappers round any other."""

from dataclasses import replace

import torch
from torch import nn

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.functional.seeded import cpu_copy, seeded
from spl.initializers import Initializer


class _Control(Criterion):
    """Another criterion, with its schedule, its needs and its rounds."""

    def __init__(self, criterion: Criterion, seed: int | None) -> None:
        self.criterion = criterion
        self.seed = seed
        self.needs_data = criterion.needs_data
        self.passes = criterion.passes
        self.revives = criterion.revives
        self.schedule = criterion.schedule

    def rearranged(self, scores: Scores) -> Scores:
        """Return the scores that the other criterion would select by."""
        return self.criterion.rearranged(scores)


class ShuffledInLayers(_Control):
    """The scores of another criterion, each layer's in random order: its layer densities and nothing else.

    The first of the two sanity checks of Frankle et al. 2021 (2009.08576) and Su et al. 2020 (2009.11094). All rounds
    but the last are the other's own; it reads what data the other reads.

    Args:
        criterion: the other criterion.
        seed: of the order, drawn on the CPU: equal on every rank and device; null for a number that the seed of the
            run decides.
    """

    def __init__(self, criterion: Criterion, seed: int | None = None) -> None:
        super().__init__(criterion, seed)

    def __call__(self, subject: Subject) -> Scores:
        """The other's scores, in their places."""
        return self.criterion(subject)

    def rearranged(self, scores: Scores) -> Scores:
        """The scores in another order within each layer."""
        generator = torch.Generator().manual_seed(self.start)
        return {
            name: s.flatten()[torch.randperm(s.numel(), generator=generator).to(s.device)].view(s.shape)
            for name, s in super().rearranged(scores).items()
        }


class RedrawnWeights(_Control):
    """What another criterion says of other weights than those that are trained, drawn afresh.

    The second sanity check of Frankle et al. 2021 (2009.08576) and Su et al. 2020 (2009.11094): does the mask belong
    to these very weights? The other weights are the same in each round; it reads what data the other reads.

    Args:
        criterion: the other criterion.
        initializer: what draws the other weights.
        seed: of the draw, on the CPU: equal on every rank and device; null for a number that the seed of the run
            decides, so that other weights are drawn than the network's own. The seed of the run itself, given here,
            draws these very weights again, if `initializer` drew them right after seeding.
    """

    def __init__(self, criterion: Criterion, initializer: Initializer, seed: int | None = None) -> None:
        super().__init__(criterion, seed)
        self.initializer = initializer

    def __call__(self, subject: Subject) -> Scores:
        """The other's scores of the other weights, with the same ones pruned."""
        if self not in subject.memo:
            subject.memo[self] = self._redrawn(subject)
        twin, weights = subject.memo[self]
        if subject.masks is not None:
            parameters = dict(twin.named_parameters())
            with torch.no_grad():
                for name, weight in weights.items():
                    parameters[name].copy_(weight)
            subject.masks.apply_(parameters)
        return self.criterion(replace(subject, network=twin, weights=weights))

    def _redrawn(self, subject: Subject) -> tuple[nn.Module, Scores]:
        """A copy of the network with its new weights, and those again as constants."""
        twin = cpu_copy(subject.network)
        with seeded(self.start):
            self.initializer(twin)
        twin = twin.to(next(iter(subject.weights.values())).device)
        parameters = dict(twin.named_parameters())
        return twin, {name: parameters[name].detach().clone() for name in subject.weights}
