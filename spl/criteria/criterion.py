"""Criterion: what scores weights, and what it is given to score."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from spl.criteria.objective import Objective
from spl.criteria.processes import Processes, dealt
from spl.criteria.schedules import OneShot, Schedule
from spl.functional.seeds import Seeded
from spl.masks.masks import Masks

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Subject:
    """What a criterion scores, in one round of pruning.

    Attributes:
        network: the network in the mode in which to score; the weights that are pruned so far are 0.0 in it.
        weights: constants, by name: the weights to score as they were before the first round.
        masks: what is alive of them after the rounds so far; None in the first, where all is.
        batches: what the loss takes, on the network's device; the first tensor of each is the network's inputs. They
            can be read several times where `passes` of the criterion, or the number of rounds, is more than one.
        loss: of the network on a batch, summed over examples.
        keep: how many weights this round will keep.
        memo: what criteria keep, each under itself, for their next round; gone after the last.
        processes: who scores together; a sum over `share` is to be added up over them.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    masks: Masks | None
    batches: Iterable[Any]
    loss: Objective
    keep: int
    memo: dict["Criterion", Any] = field(default_factory=dict)
    processes: Processes = Processes()  # noqa: RUF009 (without state)

    @property
    def share(self) -> Iterable[Any]:
        """Those of `batches` that are this process's own."""
        return dealt(self.batches, self.processes.rank, self.processes.size)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of `network` that are scored, by name: equal to `weights` but for the pruned."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.weights}


class Criterion(Seeded, ABC):
    """Scores the weights of a network; a larger score is kept first.

    A criterion only scores: which weights, in which mode, in how many rounds and how many to keep is the business
    of `spl.pruning`. One that draws has an attribute `seed`, and begins its stream at `start`; see `Seeded`.

    Attributes:
        needs_data: whether it reads `Subject.batches`, if only for the shape of the inputs.
        passes: how often it reads them in a round.
        revives: whether a weight that an earlier round pruned may come back; such weights are scored too.
        schedule: the rounds that it takes unless others are asked for.
    """

    needs_data: bool
    passes: int = 1
    revives: bool = False
    schedule: Schedule = OneShot()

    @abstractmethod
    def __call__(self, subject: Subject) -> Scores:
        """Finite scores in the shapes of `subject.weights`, keyed as they are."""

    def rearranged(self, scores: Scores) -> Scores:
        """The scores that the last round selects by; as they are, but for the controls that permute them.

        Args:
            scores: finite, one for each unit that the pattern keeps or prunes as a whole, in its shape; those of units
                that an earlier round pruned for good are the lowest value of their type, below all others.
        """
        return scores
