"""Criterion: what scores weights, and what it is given to score."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from spl.criteria.objective import Objective
from spl.criteria.processes import Processes
from spl.criteria.schedules import OneShot, Schedule
from spl.functional.seeds import Seeded
from spl.masks.masks import Masks

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Reads = Literal["loss", "shape"]


@dataclass(frozen=True)
class Subject:
    """What a criterion scores in one round of pruning.

    Attributes:
        network: the network, in the mode in which to score it. Weights that earlier rounds pruned are 0.0 in it.
        weights: the weights to score, by name, as constants: as they were before the first round.
        masks: which of the weights earlier rounds have kept; None in the first round.
        batches: the batches, on the network's device, in the form that `loss` takes. The first tensor of a batch holds
            the inputs. They can be read several times if the criterion makes several `passes` or there are several
            rounds.
        loss: the loss of the network on a batch, summed over its examples.
        keep: how many weights this round will keep.
        memo: what criteria keep for their next round, each under itself. It is gone after the last round.
        processes: the processes that score together. What is summed over `own_batches` has to be added up over them.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.pruning import PruningChoices
        >>> network = nn.Linear(4, 2)
        >>> weights = {"weight": network.weight.detach()}
        >>> subject = Subject(network, weights, masks=None, batches=(), loss=PruningChoices().loss, keep=4)
        >>> Magnitude()(subject)["weight"].shape
        torch.Size([2, 4])
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    masks: Masks | None
    batches: Iterable[Any]
    loss: Objective
    keep: int
    memo: dict["Criterion", Any] = field(default_factory=dict)
    processes: Processes = Processes()

    @property
    def own_batches(self) -> Iterator[Any]:
        """The batches that this process scores on."""
        return self.processes.batches(self.batches)

    @property
    def first_batch(self) -> Any:
        """The first batch, whichever process scores on it.

        Raises:
            InputError: there are no batches.
        """
        return next(Processes().batches(self.batches))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of `network` that are scored, by name. They equal `weights` where nothing is pruned yet."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.weights}


class Criterion(Seeded, ABC):
    """A saliency criterion: it scores the weights of a network, and those with larger scores are kept.

    A criterion only scores. `spl.pruning` decides which weights are scored, in which mode of the network, in how many
    rounds, and how many are kept. A criterion that draws random numbers has an attribute `seed`, and its random stream
    begins at `start`; see `Seeded`.

    Attributes:
        needs_data: whether it reads the batches of its subject, if only for the shape of the inputs.
        reads: what a criterion that needs data reads of it: the `loss` of batches, or only the `shape` of the inputs of
            one batch.
        passes: how often it reads them in a round.
        revives: whether a weight that an earlier round pruned may come back. If so, such weights are scored too.
        schedule: the rounds that it takes unless others are asked for.

    Example:
        >>> from torch import nn
        >>> from spl.pruning import prune
        >>> class Largest(Criterion):
        ...     needs_data = False
        ...
        ...     def __call__(self, subject):
        ...         return {name: weight.abs() for name, weight in subject.weights.items()}
        >>> prune(nn.Linear(10, 10), Largest(), sparsity=0.9)
        Masks(1 parameters, kept 10 of 100, sparsity 0.9000)
    """

    needs_data: bool = True
    reads: Reads = "loss"
    passes: int = 1
    revives: bool = False
    schedule: Schedule = OneShot()

    @abstractmethod
    def __call__(self, subject: Subject) -> Scores:
        """Return finite scores under the names and in the shapes of `subject.weights`."""

    def rearranged(self, scores: Scores) -> Scores:
        """Return the scores by which the last round selects: unchanged, except by the controls that permute them.

        Args:
            scores: finite scores, one for each unit that the pattern keeps or prunes as a whole, in the shape of the
                units. Units that an earlier round pruned for good have the lowest value of their type.
        """
        return scores
