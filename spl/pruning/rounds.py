"""The rounds of pruning: score the weights, find masks, and score again what they leave."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from spl.criteria import Criterion, Scores, Subject, Targets, scoring_loss
from spl.criteria.objective import Function, LossOfLogits, Objective, objective_of
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.functional.module_state import constant
from spl.functional.undisturbed import BatchNormMode, undisturbed
from spl.masks.masks import Masks
from spl.masks.top_k import check_finite, lowered
from spl.pruning.choices import PruningChoices


def find_masks(
    network: nn.Module,
    choices: PruningChoices,
    batches: Iterable[Any] | None = None,
    loss: Objective | Function | None = None,
    processes: Processes = Processes(),
) -> tuple[Masks, Scores]:
    """Return the masks of `network`, and the scores of the last round, which selected the kept weights.

    Weights, buffers, gradients, modes and random streams are left as they were found. A criterion without a seed draws
    by the seed of torch's global stream, that of the last `torch.manual_seed`. The scores are those of the units that
    the pattern keeps or prunes as a whole; see `spl.masks.top_k.lowered` for units that an earlier round pruned.

    Args:
        network: the network that will be trained.
        choices: what decides the masks.
        batches: batches in the form that `loss` takes, on the network's device.
        loss: what criteria differentiate: an `Objective`, or a function of network and batch that returns the mean
            over the batch's examples. Without one it is the cross-entropy with the chosen targets, on batches (inputs
            [N, ...], labels [N]).
        processes: the processes that score together. All of them call this function with equal arguments, each scores
            its share of the batches, and the masks are those that one process would find.

    Raises:
        InputError: the criterion needs data and gets none, or reads it more often than it can be read; or the choices
            cannot have that sparsity.

    Example:
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> masks, scores = find_masks(nn.Linear(10, 10), PruningChoices(sparsity=0.9, criterion=Magnitude()))
        >>> masks.kept, {name: tuple(score.shape) for name, score in scores.items()}
        (10, {'weight': (10, 10)})
    """
    parameters = choices.parameters(network)
    criterion, loss = choices.criterion, choices.loss if loss is None else objective_of(loss)
    shapes, keep = choices.sizes(parameters)
    keeps = choices.rounds.keeps(sum(p.numel() for p in parameters.values()), keep)
    choices.check(shapes, keeps[-1])
    batches = _readable(criterion, batches, len(keeps))
    once = len(keeps) == 1
    masks: Masks | None = None
    scores = Scores()
    memo: dict[Criterion, Any] = {}
    criterion = criterion.seeded(torch.initial_seed())
    with undisturbed(network, choices.batch_norm, loss.as_trained):
        weights = {name: constant(p) for name, p in parameters.items()}
        rounds = tqdm(keeps, desc="Pruning", unit="round", delay=1, leave=False, disable=True if once else None)
        for number, keep in enumerate(rounds, 1):
            if masks is not None:
                for name, p in parameters.items():
                    p.detach().copy_(weights[name]).masked_fill_(~masks[name].to(p.device), 0.0)
            scores = criterion(Subject(network, weights, masks, batches, loss, keep, memo, processes))
            loss.finish(processes)
            scores = choices.pooled(scores)
            alive = None if masks is None or criterion.revives else choices.alive(masks)
            if number == len(keeps):
                check_finite(scores)
                scores, alive = criterion.rearranged(lowered(scores, alive)), None
            masks = choices.masks(scores, shapes, keep, alive)
        weights.clear()  # so that the parameters have their memory for themselves again
    assert masks is not None
    return masks, scores


def _readable(criterion: Criterion, batches: Iterable[Any] | None, rounds: int) -> Iterable[Any]:
    """Return `batches` if the criterion can read them as often as it needs to."""
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
    return batches


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
    criterion = criterion.seeded(torch.initial_seed())
    with undisturbed(network, batch_norm):
        weights = {name: constant(p) for name, p in parameters.items()}
        scores = criterion(Subject(network, weights, None, _readable(criterion, batches, 1), loss, size))
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
    return find_masks(network, PruningChoices(criterion=criterion, sparsity=sparsity, **choices), batches, loss)[0]
