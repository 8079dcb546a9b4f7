"""Controls that a claim about a criterion has to beat: wrappers around any other criterion."""

from dataclasses import replace

import torch
from torch import nn

from spl.criteria.criterion import Criterion, Reads, Scores, Subject
from spl.functional.seeded import cpu_copy, seeded
from spl.initializers import Initializer


class _Control(Criterion):
    """A wrapper around another criterion, with the same schedule and the same needs."""

    def __init__(self, criterion: Criterion, seed: int | None) -> None:
        self.criterion = criterion
        self.seed = seed
        self.needs_data = criterion.needs_data
        self.passes = criterion.passes
        self.revives = criterion.revives
        self.schedule = criterion.schedule

    @property
    def reads(self) -> Reads:  # type: ignore[override]
        """What the other criterion reads; no attribute, because these are recorded."""
        return self.criterion.reads

    def rearranged(self, scores: Scores) -> Scores:
        """Return the scores by which the other criterion would select."""
        return self.criterion.rearranged(scores)


class ShuffledInLayers(_Control):
    """The scores of another criterion, shuffled within each layer, so that only its layer densities are left.

    This is the first of the two sanity checks of Frankle et al. 2021 (arXiv:2009.08576) and Su et al. 2020
    (arXiv:2009.11094). All rounds before the last are those of the other criterion, and so is the data that it reads.

    Args:
        criterion: the other criterion.
        seed: the seed of the order, which is drawn on the CPU and so is equal on every rank and device; null for a
            number that the seed of the run decides.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Magnitude, ShuffledInLayers
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> masks = prune(network, Magnitude(), sparsity=0.75)
        >>> shuffled = prune(network, ShuffledInLayers(Magnitude(), seed=0), sparsity=0.75)
        >>> {name: (mask.sum().item(), shuffled[name].sum().item()) for name, mask in masks.items()}
        {'0.weight': (12, 12), '2.weight': (2, 2)}
        >>> shuffled == masks
        False
    """

    def __init__(self, criterion: Criterion, seed: int | None = None) -> None:
        super().__init__(criterion, seed)

    def __call__(self, subject: Subject) -> Scores:
        """Return the scores of the other criterion, in their places."""
        return self.criterion(subject)

    def rearranged(self, scores: Scores) -> Scores:
        """Return the scores, shuffled within each layer."""
        generator = torch.Generator().manual_seed(self.start)
        return {
            name: s.flatten()[torch.randperm(s.numel(), generator=generator).to(s.device)].view(s.shape)
            for name, s in super().rearranged(scores).items()
        }


class RedrawnWeights(_Control):
    """The scores that another criterion gives to newly drawn weights, instead of those that are trained.

    This is the second sanity check of Frankle et al. 2021 (arXiv:2009.08576) and Su et al. 2020 (arXiv:2009.11094): it
    asks whether the mask belongs to these very weights. The new weights are the same in each round. It reads the data
    that the other criterion reads.

    Args:
        criterion: the other criterion.
        initializer: the initializer that draws the new weights.
        seed: the seed of the draw, which is made on the CPU and so is equal on every rank and device; null for a
            number that the seed of the run decides, so that the new weights differ from the network's own. The seed of
            the run itself, given here, draws the network's own weights again if `initializer` drew them right after
            seeding.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import ConnectionSensitivity, RedrawnWeights
        >>> from spl.initializers import HeNormal
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = torch.randn(16, 4), torch.randint(3, (16,))
        >>> criterion = RedrawnWeights(ConnectionSensitivity(), HeNormal())
        >>> masks = prune(network, criterion, sparsity=0.75, batches=[batch])
        >>> sum(mask.sum().item() for mask in masks.values())
        14
    """

    def __init__(self, criterion: Criterion, initializer: Initializer, seed: int | None = None) -> None:
        super().__init__(criterion, seed)
        self.initializer = initializer

    def __call__(self, subject: Subject) -> Scores:
        """Return the other criterion's scores of the new weights, of which the same are pruned."""
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
        """Return a copy of the network with new weights, and a copy of these weights as constants."""
        twin = cpu_copy(subject.network)
        with seeded(self.start):
            self.initializer(twin)
        twin = twin.to(next(iter(subject.weights.values())).device)
        parameters = dict(twin.named_parameters())
        return twin, {name: parameters[name].detach().clone() for name in subject.weights}
