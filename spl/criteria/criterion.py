"""Criterion: what scores weights, and what it is given to score."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from spl.criteria.objective import Objective
from spl.criteria.processes import Processes
from spl.criteria.schedules import OneShot, Schedule
from spl.errors import InputError
from spl.functional.seeds import Seeded
from spl.masks.masks import Masks

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Reads = Literal["loss", "inputs", "shape"]


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


class NoBatches:
    """The batches of a subject if there are none: a criterion that reads them is refused.

    Args:
        criterion: the criterion.

    Example:
        >>> from spl.criteria import SNIP
        >>> from spl.criteria.criterion import NoBatches
        >>> next(iter(NoBatches(SNIP())))
        Traceback (most recent call last):
        spl.errors.InputError: SNIP scores weights on data and got none: pass batches, ...
    """

    def __init__(self, criterion: "Criterion") -> None:
        self._name = type(criterion).__name__

    def __iter__(self) -> Iterator[Any]:
        raise InputError(
            f"{self._name} scores weights on data and got none: pass batches, or a DataModule to the Trainer, or use a "
            "criterion without data (Magnitude, Random, PHEW)."
        )


class Criterion(Seeded, ABC):
    """A saliency criterion: it scores the weights of a network, and those with larger scores are kept.

    A criterion only scores. `spl.pruning` decides which weights are scored, in which mode of the network, in how many
    rounds, and how many are kept. One of your own defines `__call__`; everything else has a default. If it draws random
    numbers, it has an attribute `seed`, and its random stream begins at `start`; see `Seeded`.

    Attributes:
        needs_data: whether it reads the batches of its subject, if only for the shape of the inputs. If it says no,
            none are prepared for it.
        reads: what a criterion that needs data reads of it: the `loss` of batches, only their `inputs`, or only the
            `shape` of the inputs of one batch.
        passes: how often it reads them in a round.
        revives: whether a weight that an earlier round pruned may come back. If so, such weights are scored too.
        takes_pruned: whether it may score a network that comes pruned already, to prune more of it. With any other
            criterion the zeros of such a network are kept as they are; see `PruneAtInit`.
        schedule: the rounds that it takes unless others are asked for.

    Example:
        >>> from torch import nn
        >>> from spl.pruning import prune
        >>> class Largest(Criterion):
        ...     def __call__(self, subject):
        ...         return {name: weight.abs() for name, weight in subject.weights.items()}
        >>> prune(nn.Linear(10, 10), Largest(), sparsity=0.9)
        Masks(1 parameters, kept 10 of 100, sparsity 0.9000)
    """

    needs_data: bool = True
    reads: Reads = "loss"
    passes: int = 1
    revives: bool = False
    takes_pruned: bool = False
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


def checked_scores(criterion: Criterion, scores: object, weights: Mapping[str, Tensor]) -> Scores:
    """Return the scores that a criterion has returned, as floating-point numbers without a graph.

    Args:
        criterion: the criterion, for the message.
        scores: what it returned.
        weights: the weights that it was to score, by name.

    Raises:
        InputError: they are not one tensor for each weight, in its shape.

    Example:
        >>> import torch
        >>> from spl.criteria import Magnitude
        >>> from spl.criteria.criterion import checked_scores
        >>> checked_scores(Magnitude(), {}, {"fc1.weight": torch.ones(2, 3)})
        Traceback (most recent call last):
        spl.errors.InputError: Magnitude returned scores that do not fit: fc1.weight (missing). Return a dictionary ...
    """
    found = scores if isinstance(scores, Mapping) else {}
    wrong = [f"{name} (missing)" for name in weights if name not in found] if isinstance(scores, Mapping) else []
    for name, score in found.items():
        if name not in weights:
            wrong.append(f"{name} (not asked for)")
        elif not isinstance(score, Tensor) or score.shape != weights[name].shape or score.is_complex():
            what = f"{score.dtype} {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            wrong.append(f"{name} ({what}, weights {tuple(weights[name].shape)})")
    if wrong or not isinstance(scores, Mapping):
        what = f"scores that do not fit: {', '.join(wrong)}" if wrong else f"{type(scores).__name__} for scores"
        raise InputError(
            f"{type(criterion).__name__} returned {what}. Return a dictionary with one tensor for each name in "
            "subject.weights, in the shape of the weight."
        )
    return {n: (s if s.is_floating_point() else s.double()).detach() for n, s in found.items()}
