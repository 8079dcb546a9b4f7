"""Rounds: scores, masks, and scores of what they leave."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from spl.criteria import (
    Batch,
    Criterion,
    LossOfLogits,
    Objective,
    Processes,
    Scores,
    Subject,
    Targets,
    dealt,
    scoring_loss,
)
from spl.criteria.schedules import Schedule
from spl.errors import InputError
from spl.functional.undisturbed import BatchNormMode, undisturbed
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered
from spl.pruning.parameters import prunable_parameters
from spl.pruning.patterns import Pattern, Unstructured
from spl.pruning.rule import Rule
from spl.pruning.scopes import Global, Scope
from spl.pruning.sparsity import keep_count


def find_masks(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Any] | None = None,
    rule: Rule = Rule(),  # noqa: B008 (immutable)
    schedule: Schedule | None = None,
    loss: Objective = LossOfLogits(scoring_loss("labels")),  # noqa: B008 (without state)
    batch_norm: BatchNormMode = "eval",
    processes: Processes = Processes(),  # noqa: B008 (without state)
) -> tuple[Masks, Scores]:
    """Masks of `parameters` at `sparsity`, and the scores of the last round, which selected them.

    Weights, buffers, gradients, modes and random streams are left as they were found; what a criterion without a seed
    draws is decided by the seed of torch's global stream, the last `torch.manual_seed`. The scores are those of the
    units that the pattern keeps or prunes as a whole; see `spl.masks.top_k.lowered` for those that were pruned before.

    Args:
        network: the very network that will be trained.
        parameters: parameters of `network`, by name.
        criterion: what scores them.
        sparsity: κ̄ in [0, 1), over all of them together.
        batches: what `loss` takes, on the network's device.
        rule: which weights are kept, given scores.
        schedule: the rounds; the criterion's own without one.
        loss: what criteria differentiate; cross-entropy of batches (inputs [N, ...], labels [N]) without one.
        batch_norm: see `spl.functional.undisturbed.undisturbed`.
        processes: who scores together. All of them call this with equal arguments; batch k is scored by the k-th, in
            turn, and the masks are those of one process.

    Raises:
        InputError: the criterion needs data and gets none, or reads it more often than it can be read; or the rule
            cannot have that sparsity.
    """
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    size = sum(p.numel() for p in parameters.values())
    keeps = (schedule or criterion.schedule).keeps(size, keep_count(size, sparsity))
    rule.check(shapes, keeps[-1])
    batches = _readable(criterion, batches, len(keeps))
    once = len(keeps) == 1
    weights = {name: p.detach() if once else p.detach().clone() for name, p in parameters.items()}
    masks: Masks | None = None
    scores = Scores()
    memo: dict[Criterion, Any] = {}
    criterion = criterion.seeded(torch.initial_seed())
    with undisturbed(network, batch_norm), _restored(parameters, weights):
        rounds = tqdm(keeps, desc="Pruning", unit="round", delay=1, leave=False, disable=True if once else None)
        for number, keep in enumerate(rounds, 1):
            if masks is not None:
                for name, p in parameters.items():
                    p.detach().copy_(weights[name]).masked_fill_(~masks[name].to(p.device), 0.0)
            scores = rule.pooled(criterion(Subject(network, weights, masks, batches, loss, keep, memo, processes)))
            alive = None if masks is None or criterion.revives else rule.alive(masks)
            if number == len(keeps):
                check_finite(scores)
                scores, alive = criterion.rearranged(lowered(scores, alive)), None
            masks = rule.masks(scores, shapes, keep, alive)
    assert masks is not None
    return masks, scores


@contextmanager
def _restored(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Give the parameters their weights back, whatever happens."""
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.detach().copy_(weights[name])


def score(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    criterion: Criterion,
    batches: Iterable[Batch] | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
) -> Scores:
    """Saliency scores of `parameters` in one round: see `find_masks`."""
    weights = {name: p.detach() for name, p in parameters.items()}
    size = sum(p.numel() for p in parameters.values())
    loss = LossOfLogits(scoring_loss(targets))
    subject = Subject(network, weights, None, _readable(criterion, batches, 1), loss, size)
    criterion = criterion.seeded(torch.initial_seed())
    with undisturbed(network, batch_norm):
        return criterion(subject)


def _readable(criterion: Criterion, batches: Iterable[Any] | None, rounds: int) -> Iterable[Any]:
    """`batches`, if the criterion can read them as often as it needs to."""
    if not criterion.needs_data:
        return ()
    name = type(criterion).__name__
    if batches is None:
        raise InputError(
            f"{name} scores weights on data and got none: pass batches, or a DataModule to the Trainer, or use a "
            "criterion without data (Magnitude, Random, PHEW)."
        )
    if isinstance(batches, Iterator) and (rounds > 1 or criterion.passes > 1):
        raise InputError(
            f"{name} reads its batches several times, and an iterator gives them once: pass a list or a DataLoader."
        )
    return _Checked(batches)


class _Checked:
    """Batches, of which there is one at least."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return _read(self.batches)

    def dealt(self, rank: int, size: int) -> Iterator[Any]:
        """Those of one process: the first has one at least."""
        return _read(dealt(self.batches, rank, size), may_be_none=rank > 0)


def _read(batches: Iterable[Any], may_be_none: bool = False) -> Iterator[Any]:
    batch = None
    for batch in tqdm(batches, desc="Scoring", unit="batch", delay=1, leave=False, disable=None):
        yield batch
    if batch is None and not may_be_none:
        raise InputError("The scoring data has no batches: give at least one.")


def prune(
    network: nn.Module,
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Any] | None = None,
    scope: Scope = Global(),  # noqa: B008 (without state)
    pattern: Pattern = Unstructured(),  # noqa: B008 (without state)
    minimum: int = 0,
    schedule: Schedule | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
    include_bias: bool = False,
    exclude: Sequence[str] = (),
    include_embedding: bool = False,
) -> Masks:
    """Masks of `network` at `sparsity`; `masks.apply_(dict(network.named_parameters()))` then prunes it.

    See `prunable_parameters`, `Rule`, `find_masks` and `spl.criteria.scoring_loss`, which this composes, for the
    arguments and errors.
    """
    parameters = prunable_parameters(network, include_bias, exclude, include_embedding)
    rule = Rule(scope, pattern, minimum)
    loss = LossOfLogits(scoring_loss(targets))
    return find_masks(network, parameters, criterion, sparsity, batches, rule, schedule, loss, batch_norm)[0]
