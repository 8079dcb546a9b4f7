"""Pruning: from scores to masks. Pure functions that leave the network as they found it."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn

from spl.criteria import Batch, Criterion, Scores, Targets, scoring_loss
from spl.errors import InputError
from spl.masks import Masks, check_finite, top_k
from spl.modes import BatchNormMode, undisturbed

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


def score(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    criterion: Criterion,
    batches: Iterable[Batch] | None = None,
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
) -> Scores:
    """Saliency scores of `parameters`, leaving weights, buffers, gradients, modes and random streams alone.

    Args:
        network: the very network that will be trained.
        parameters: parameters of `network`, by name.
        criterion: what scores them.
        batches: inputs [N, ...] and labels [N] on the network's device.
        targets: see `spl.criteria.scoring_loss`.
        batch_norm: see `spl.modes.undisturbed`.

    Raises:
        InputError: the criterion needs data and gets none.
    """
    if criterion.needs_data and batches is None:
        raise InputError(
            f"{type(criterion).__name__} scores weights on data and got none: pass batches, or a DataModule to "
            "the Trainer, or use a criterion without data (Magnitude, Random)."
        )
    with undisturbed(network, batch_norm):
        return criterion(network, parameters, _count_checked(() if batches is None else batches), scoring_loss(targets))


def _count_checked(batches: Iterable[Batch]) -> Iterable[Batch]:
    batch = None
    for batch in batches:
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
    targets: Targets = "labels",
    batch_norm: BatchNormMode = "eval",
    include_bias: bool = False,
    exclude: Sequence[str] = (),
) -> Masks:
    """Masks of `network` at `sparsity`; `masks.apply_(dict(network.named_parameters()))` then prunes it.

    See `prunable_parameters`, `score` and `select`, which this composes, for the arguments and errors.
    """
    parameters = prunable_parameters(network, include_bias, exclude)
    keep_count(sum(p.numel() for p in parameters.values()), sparsity)  # refuse before scoring, which may be long
    return select(score(network, parameters, criterion, batches, targets, batch_norm), sparsity, scope)


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
