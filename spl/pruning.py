"""Pruning: from scores to masks. Pure functions that leave the network as they found it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn
from tqdm import tqdm

from spl.criteria import Batch, Criterion, Scores, Subject, Targets, scoring_loss
from spl.errors import InputError
from spl.masks import Masks, check_finite, top_k
from spl.modes import BatchNormMode, undisturbed
from spl.schedules import Schedule

Scope = Literal["global", "layerwise"]

_PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)


def prunable_parameters(
    network: nn.Module, include_bias: bool = False, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The parameters that pruning may touch: weights of Linear and convolutional layers, tied ones once.

    Args:
        network: any module.
        include_bias: their biases too, as the paper counts them.
        exclude: shell patterns over full parameter names (`fc1.weight`, `*.bias`) that stay dense.

    Raises:
        InputError: nothing is prunable, or a pattern matches nothing.
    """
    kinds = ("weight", "bias") if include_bias else ("weight",)
    layers = [module for module in network.modules() if isinstance(module, _PRUNABLE)]
    prunable = {id(getattr(layer, kind)) for layer in layers for kind in kinds}
    found = {
        name: parameter
        for name, parameter in network.named_parameters()
        if id(parameter) in prunable and parameter.requires_grad
    }
    if not found:
        raise InputError(
            f"{type(network).__name__} has no weights to prune: it needs trainable Linear or convolutional layers."
        )
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise InputError(f"exclude: {pattern!r} matches none of the parameters {', '.join(found)}.")
    kept = {n: p for n, p in found.items() if not any(fnmatchcase(n, pattern) for pattern in exclude)}
    if not kept:
        raise InputError(f"exclude: {list(exclude)} leaves nothing to prune of {', '.join(found)}.")
    return kept


def find_masks(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Batch] | None = None,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
) -> tuple[Masks, Scores]:
    """Masks of `parameters` at `sparsity`, and the scores of the last round, which selected them.

    Weights, buffers, gradients, modes and random streams are left as they were found.

    Args:
        network: the very network that will be trained.
        parameters: parameters of `network`, by name.
        criterion: what scores them.
        sparsity: κ̄ in [0, 1), over all of them together.
        batches: inputs [N, ...] and labels [N] on the network's device.
        scope: see `comparable`.
        schedule: the rounds; the criterion's own without one.
        targets: see `spl.criteria.scoring_loss`.
        batch_norm: see `spl.modes.undisturbed`.

    Raises:
        InputError: the criterion needs data and gets none, or reads it more often than it can be read.
    """
    size = sum(p.numel() for p in parameters.values())
    keeps = (schedule or criterion.schedule).keeps(size, keep_count(size, sparsity))
    batches = _readable(criterion, batches, len(keeps))
    loss = scoring_loss(targets)
    once = len(keeps) == 1
    weights = {name: p.detach() if once else p.detach().clone() for name, p in parameters.items()}
    masks, scores = None, Scores()
    with undisturbed(network, batch_norm), _restored(parameters, weights):
        for keep in tqdm(keeps, desc="Pruning", unit="round", delay=1, leave=False, disable=True if once else None):
            if masks is not None:
                for name, p in parameters.items():
                    p.detach().copy_(weights[name]).masked_fill_(~masks[name].to(p.device), 0.0)
            scores = criterion(Subject(network, weights, masks, batches, loss, keep))
            check_finite(scores)
            if masks is not None and not criterion.revives:
                low = min(float(s.min()) for s in scores.values()) - 1.0
                scores = {name: s.masked_fill(~masks[name].to(s.device), low) for name, s in scores.items()}
            masks = select(scores, 1 - keep / size, scope)
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
    subject = Subject(network, weights, None, _readable(criterion, batches, 1), scoring_loss(targets), size)
    with undisturbed(network, batch_norm):
        return criterion(subject)


def _readable(criterion: Criterion, batches: Iterable[Batch] | None, rounds: int) -> Iterable[Batch]:
    """`batches`, if the criterion can read them as often as it needs to."""
    if not criterion.needs_data:
        return ()
    name = type(criterion).__name__
    if batches is None:
        raise InputError(
            f"{name} scores weights on data and got none: pass batches, or a DataModule to the Trainer, or use a "
            "criterion without data (Magnitude, Random)."
        )
    if isinstance(batches, Iterator) and (rounds > 1 or criterion.passes > 1):
        raise InputError(
            f"{name} reads its batches several times, and an iterator gives them once: pass a list or a DataLoader."
        )
    return _Checked(batches)


class _Checked:
    """Batches, of which there is one at least."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        batch = None
        for batch in self.batches:
            yield batch
        if batch is None:
            raise InputError("The scoring data has no batches: give at least one.")


def check_sparsity(sparsity: float) -> None:
    """Raise an `InputError` unless `sparsity` lies in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise InputError(
            f"sparsity must lie in [0, 1), got {sparsity}: it is the share of weights removed, 0.9 for 90 %."
        )


def keep_count(size: int, sparsity: float) -> int:
    """κ = round(m (1 − κ̄)), the number of weights kept of m = `size`.

    Raises:
        InputError: `sparsity` lies outside [0, 1), or keeps no weight at all.
    """
    check_sparsity(sparsity)
    keep = round(size * (1.0 - sparsity))
    if keep == 0:
        raise InputError(f"sparsity {sparsity} keeps none of {size} weights: at most {1 - 1 / size:.12g} keeps one.")
    return keep


def select(scores: Scores, sparsity: float, scope: Scope = "global") -> Masks:
    """Masks that keep exactly round(m (1 − sparsity)) weights, those of the largest scores.

    Args:
        scores: one tensor per parameter name.
        sparsity: κ̄ in [0, 1), over all scores together.
        scope: see `comparable`.

    Raises:
        InputError: see `keep_count`, and NaN or infinite scores.
    """
    return top_k(comparable(scores, scope), keep_count(sum(s.numel() for s in scores.values()), sparsity))


def comparable(scores: Scores, scope: Scope) -> Scores:
    """Scores whose largest, over all layers together, are the ones to keep.

    Args:
        scores: one tensor per parameter name.
        scope: `global` compares the scores as they are; `layerwise` their ranks within the layer, so that all
            layers have one density, to within half a weight each.

    Raises:
        InputError: NaN or infinite scores, or an unknown scope.
    """
    if scope not in get_args(Scope):
        raise InputError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope!r}.")
    check_finite(scores)  # ranks would hide it
    return scores if scope == "global" else {name: _rank_quantiles(s) for name, s in scores.items()}


def _rank_quantiles(scores: torch.Tensor) -> torch.Tensor:
    """−(rank + ½)/n, ranks from 0 at the largest score.

    The top κ of these over all layers are Webster's apportionment: the total is exact, and a layer never gains
    weights when the total shrinks.
    """
    order = scores.flatten().argsort(descending=True, stable=True)
    quantiles = torch.empty(order.numel(), dtype=torch.float64, device=scores.device)
    ranks = torch.arange(order.numel(), dtype=torch.float64, device=scores.device)
    quantiles[order] = -(ranks + 0.5) / order.numel()
    return quantiles.view(scores.shape)


def prune(
    network: nn.Module,
    criterion: Criterion,
    sparsity: float,
    batches: Iterable[Batch] | None = None,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
    include_bias: bool = False,
    exclude: Sequence[str] = (),
) -> Masks:
    """Masks of `network` at `sparsity`; `masks.apply_(dict(network.named_parameters()))` then prunes it.

    See `prunable_parameters` and `find_masks`, which this composes, for the arguments and errors.
    """
    parameters = prunable_parameters(network, include_bias, exclude)
    return find_masks(network, parameters, criterion, sparsity, batches, scope, schedule, targets, batch_norm)[0]


def collapsed_layers(scores: Scores, masks: Masks) -> dict[str, float]:
    """The layers that lost every weight, with the sparsity from which each is empty.

    `scores` are the comparable ones that `masks` were selected by. With r of them greater than all of a layer's,
    the layer is empty once at most r weights are kept, that is from sparsity 1 − r/m. Biases do not count: without
    one a layer still passes signals on.
    """
    size = masks.size
    names = list(scores)

    def ahead(name: str) -> int:
        """How many weights are kept before the first of this layer; of equal scores the earlier layer's."""
        best, place = scores[name].max(), names.index(name)
        return sum(int((s >= best if i < place else s > best).sum()) for i, s in enumerate(scores.values()))

    return {name: 1.0 - ahead(name) / size for name, mask in masks.items() if mask.ndim > 1 and not mask.any()}
