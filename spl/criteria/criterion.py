"""Criterion: what scores weights, and what it is given to score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spl.errors import InputError
from spl.masks import Masks
from spl.schedules import OneShot, Schedule

Scores = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Targets = Literal["labels", "uniform", "prediction_logits", "prediction_softmax"]


def scoring_loss(targets: Targets) -> Loss:
    """The cross-entropy −Σᵢ tᵢ log softmax(z)ᵢ, summed over the examples of a batch.

    A sum, not a mean: scores then do not depend on how the examples are cut into batches.

    Args:
        targets: what t is. `labels`: the classes. The others need no labels (section 5 of Lee et al. 2020):
            `uniform`, 1/classes each; `prediction_logits`, the network's own logits z;
            `prediction_softmax`, its own softmax(z). A prediction is not held constant: were it, the gradient
            of the softmax kind would be zero everywhere.

    Returns:
        A function of logits [N, classes] and labels [N] to a scalar.
    """

    if targets not in get_args(Targets):
        raise InputError(f"targets must be one of {', '.join(get_args(Targets))}, got {targets!r}.")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if targets == "labels":
            return F.cross_entropy(logits, labels, reduction="sum")
        log_probabilities = logits.log_softmax(-1)
        soft = {
            "uniform": lambda: torch.full_like(logits, 1.0 / logits.shape[-1]),
            "prediction_logits": lambda: logits,
            "prediction_softmax": lambda: logits.softmax(-1),
        }[targets]()
        return -(soft * log_probabilities).sum()

    return loss


@dataclass(frozen=True)
class Subject:
    """What a criterion scores, in one round of pruning.

    Attributes:
        network: the network in the mode in which to score; the weights that are pruned so far are 0.0 in it.
        weights: constants, by name: the weights to score as they were before the first round.
        masks: what is alive of them after the rounds so far; None in the first, where all is.
        batches: inputs and labels on the network's device. They can be read several times where `passes` of the
            criterion, or the number of rounds, is more than one.
        loss: of logits and labels, summed over examples.
        keep: how many weights this round will keep.
        memo: what criteria keep, each under itself, for their next round; gone after the last.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    masks: Masks | None
    batches: Iterable[Batch]
    loss: Loss
    keep: int
    memo: dict["Criterion", Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of `network` that are scored, by name: equal to `weights` but for the pruned."""
        parameters = dict(self.network.named_parameters())
        return {name: parameters[name] for name in self.weights}


class Criterion(ABC):
    """Scores the weights of a network; a larger score is kept first.

    A criterion only scores: which weights, in which mode, in how many rounds and how many to keep is the business
    of `spl.pruning`.

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
