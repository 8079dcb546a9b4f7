"""The rounds of pruning: score the weights, find masks, and score again what they leave."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spl.criteria import Criterion, Scores, Subject, Targets, scoring_loss
from spl.criteria.criterion import NoBatches, checked_scores
from spl.criteria.objective import Function, LossOfLogits, Objective, SumOfOutputs, objective_of
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.module_state import constant
from spl.functional.undisturbed import BatchNormMode, undisturbed
from spl.functional.wrappers import unwrapped
from spl.isometry.activations import Activations
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered
from spl.pruning.choices import PruningChoices
from spl.pruning.coupled_rule import CoupledRule, rule_of
from spl.pruning.coverage import Coverage
from spl.pruning.observation import observe
from spl.pruning.remarks import warn_of_collapse, warn_of_dense
from spl.pruning.rule import Rule
from spl.pruning.weights import check_weights


class Found(NamedTuple):
    """The masks of a network, and what they were found by.

    Attributes:
        masks: which weights are kept, by parameter name.
        scores: the scores of the last round, which selected the kept weights, of the units that the pattern keeps or
            prunes as a whole; see `spl.masks.top_k.lowered` for units that an earlier round pruned.
        coverage: the share of the network's weights that the masks cover, and those that stay dense.
        activations: the activation behind each weight, by name, as a forward pass showed it; None if there was none, or
            they were not asked for.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> found = find_masks(nn.Linear(10, 10), PruningChoices(sparsity=0.9, criterion=Magnitude()))
        >>> found.masks.kept, {name: tuple(score.shape) for name, score in found.scores.items()}, found.coverage.covered
        (10, {'weight': (10, 10)}, 1.0)
    """

    masks: Masks
    scores: Scores
    coverage: Coverage
    activations: Activations | None


def find_masks(
    network: nn.Module,
    choices: PruningChoices,
    batches: Iterable[Any] | None = None,
    loss: Objective | Function | None = None,
    processes: Processes = Processes(),
    follow: bool = False,
) -> Found:
    """Return the masks of `network`, with the scores that decided them.

    The network is left as it was found, with its random streams. A criterion without a seed draws by the seed of
    torch's global stream, that of the last `torch.manual_seed`. Weights that no gradient of the loss reaches on any
    batch, such as those of copies (averages, teachers), are not scored and stay dense, with a warning.

    Args:
        network: the network that will be trained; of a wrapped one (`torch.compile`, DistributedDataParallel, Fabric)
            the network inside, by its names.
        choices: what decides the masks.
        batches: batches in the form that `loss` takes, on the network's device. A criterion that needs no data does
            not score on them, but they show which weights the loss depends on.
        loss: what criteria differentiate: an `Objective`, or a function of network and batch that returns the mean
            over the batch's examples. Without one it is the cross-entropy with the chosen targets, on batches (inputs
            [N, ...], labels [N]).
        processes: the processes that score together. All of them call this function with equal arguments, each scores
            its share of the batches, and the masks are those that one process would find.
        follow: whether to find the activation behind each weight too, for a correction.

    Raises:
        InputError: the criterion needs data and gets none, or reads it more often than it can be read; the choices
            cannot have that sparsity; or weights cannot be pruned, see `spl.pruning.weights.check_weights` and
            `spl.pruning.observation.observe`.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> masks, scores, *_ = find_masks(nn.Linear(10, 10), PruningChoices(sparsity=0.9, criterion=Magnitude()))
        >>> masks.kept
        10
    """
    network = unwrapped(network)
    parameters = choices.parameters(network)
    check_weights(network, parameters, choices.criterion)
    criterion = choices.criterion.seeded(torch.initial_seed())
    objective = choices.loss if loss is None else objective_of(loss)
    _check_readable(criterion, batches, rounds=len(_keeps(choices, parameters)))
    with undisturbed(network, choices.batch_norm, objective.as_trained):
        shown = SumOfOutputs() if criterion.needs_data and criterion.reads != "loss" else objective
        seen = observe(network, parameters, () if batches is None else batches, shown, processes, follow)
        if seen.is_hidden and criterion.needs_data:
            raise InputError(
                "The network uses reentrant gradient checkpointing, which hides its weights from scoring: use "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), with Hugging Face "
                "gradient_checkpointing_enable({'use_reentrant': False}), or a criterion without data."
            )
        if processes.rank == 0:
            warn_of_dense(network, parameters, seen.unreached)
        unreached = seen.unreached or []
        weights = {name: constant(p) for name, p in parameters.items() if name not in unreached}
        read = NoBatches(criterion) if batches is None and criterion.needs_data else seen.batches
        subject = Subject(network, weights, None, read, objective, 0, processes=processes)
        rule = rule_of(choices, network, weights, seen.batches)
        masks, scores = _rounds(subject, choices, rule, criterion)
        weights.clear()  # so that the parameters have their memory for themselves again
    if processes.rank == 0:
        warn_of_collapse(masks, scores, choices)
    return Found(masks, scores, Coverage.of(network, masks, choices.exclude or (), unreached), seen.activations)


def _keeps(choices: PruningChoices, parameters: Mapping[str, Tensor]) -> list[int]:
    """Return how many weights each round keeps.

    Raises:
        InputError: the choices cannot have that sparsity.
    """
    shapes, keep = choices.sizes(parameters)
    keeps = choices.rounds.keeps(sum(p.numel() for p in parameters.values()), keep)
    choices.check(shapes, keeps[-1])
    return keeps


def _rounds(
    first: Subject, choices: PruningChoices, rule: Rule | CoupledRule, criterion: Criterion
) -> tuple[Masks, Scores]:
    """Score what the round before has left, and find masks, until the last round; return its masks and scores."""
    keeps = _keeps(choices, first.weights)
    shapes = choices.sizes(first.weights)[0]
    masks: Masks | None = None
    scores = Scores()
    disable = True if len(keeps) == 1 else None
    for number, keep in enumerate(tqdm(keeps, desc="Pruning", unit="round", delay=1, leave=False, disable=disable), 1):
        if masks is not None:
            for name, p in first.parameters.items():
                p.detach().copy_(first.weights[name]).masked_fill_(~masks[name].to(p.device), 0.0)
        scores = checked_scores(criterion, criterion(replace(first, masks=masks, keep=keep)), first.weights)
        first.loss.finish(first.processes)
        scores = rule.pooled(scores)
        alive = None if masks is None or criterion.revives else rule.alive(masks)
        if number == len(keeps):
            check_finite(scores)
            scores, alive = criterion.rearranged(lowered(scores, alive)), None
        masks = rule.masks(scores, shapes, keep, alive)
    assert masks is not None
    return masks, rule.spread(scores, shapes) if isinstance(rule, CoupledRule) else scores


def _check_readable(criterion: Criterion, batches: Iterable[Any] | None, rounds: int) -> None:
    """Check that the criterion can read the batches as often as it needs to."""
    if criterion.needs_data and isinstance(batches, Iterator) and (rounds > 1 or criterion.passes > 1):
        raise InputError(
            f"{type(criterion).__name__} reads its batches several times, and an iterator gives them once: pass a list "
            "or a DataLoader."
        )


def score(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    criterion: Criterion,
    batches: Iterable[Any] | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
) -> Scores:
    """Return the saliency scores of `parameters` after one round, by name; see `find_masks`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import ConnectionSensitivity
        >>> network, batch = nn.Linear(4, 3), (torch.randn(8, 4), torch.randint(3, (8,)))
        >>> scores = score(network, {"weight": network.weight}, ConnectionSensitivity(), [batch])
        >>> scores["weight"].shape, round(float(scores["weight"].sum()), 4)
        (torch.Size([3, 4]), 1.0)
    """
    size = sum(p.numel() for p in parameters.values())
    loss = LossOfLogits(scoring_loss(targets))
    _check_readable(criterion, batches, rounds=1)
    criterion = criterion.seeded(torch.initial_seed())
    with undisturbed(network, batch_norm):
        weights = {name: constant(p) for name, p in parameters.items()}
        read = NoBatches(criterion) if batches is None else batches
        scores = checked_scores(criterion, criterion(Subject(network, weights, None, read, loss, size)), weights)
        weights.clear()
    return scores


def prune(
    network: nn.Module,
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Any] | None = None,
    *,
    loss: Objective | Function | None = None,
    **choices: Any,
) -> Masks:
    """Return the masks of `network` at `sparsity`, and leave the network as it is.

    `masks.apply_(dict(network.named_parameters()))` then sets the pruned weights to 0. See `spl.sparsify.sparsify`,
    which does that too and corrects what is left.

    Args:
        network: the network that will be trained.
        criterion: what scores its weights.
        sparsity: the share of weights to remove, in [0, 1).
        batches: batches (inputs [N, ...], labels [N]), or what `loss` takes, on the network's device, for a criterion
            that needs data.
        loss: what criteria differentiate, if it is not the cross-entropy of logits: a function of network and batch
            that returns the mean over the batch's examples, such as `lambda network, batch: network(**batch).loss`.
            The network is in the mode in which it was given, without dropout.
        choices: further choices by name, such as `scope` and `pattern`; see `PruningChoices`.

    Raises:
        InputError: see `find_masks`.

    Example:
        >>> import torch
        >>> from spl.criteria import ConnectionSensitivity
        >>> from spl.networks import MLP
        >>> from spl.pruning.scopes import ERK
        >>> batch = torch.randn(100, 784), torch.randint(10, (100,))
        >>> prune(MLP(), ConnectionSensitivity(), sparsity=0.9, batches=[batch], scope=ERK())
        Masks(7 parameters, kept 12940 of 129400, sparsity 0.9000)
    """
    return find_masks(network, PruningChoices(criterion=criterion, sparsity=sparsity, **choices), batches, loss).masks
