"""Warnings about what a pruning did, or may have done, that is probably not what was wanted."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spl.criteria import Scores
from spl.functional.computed import overriding_layers
from spl.masks.masks import Masks
from spl.pruning.choices import PruningChoices
from spl.pruning.coverage import shortened

_START = 16  # the numbers that decide whether whole weights are compared; weights that begin constant are no copies


def warn_of_dense(network: nn.Module, parameters: Mapping[str, Tensor], unreached: Sequence[str] | None) -> None:
    """Warn of weights that stay dense because no gradient reaches them, or of what may be wrong if that is not known.

    Args:
        network: the network.
        parameters: its parameters that are to be pruned, by name.
        unreached: the names of those that no gradient reaches; None if that is not known.
    """
    if unreached:
        _warn(
            f"{shortened(unreached)}: no gradient of the loss arrives there, so these weights are not scored and stay "
            "dense, as those of copies (averages, teachers) and of parts that only other steps train do. A copy that "
            "was made before pruning has dense weights: make it when training starts. To score other parts, pass a "
            "function loss= that uses them."
        )
    if unreached is not None:
        return
    if found := copies(parameters):
        pairs = shortened([f"{later} ({earlier})" for later, earlier in found.items()])
        _warn(
            f"{pairs}: a weight equals another one, in brackets. If it is a copy (an average, a teacher) that is not "
            "trained, leave it out with exclude, or the sparsity counts it too."
        )
    if own := overriding_layers(network, parameters):
        _warn(
            f"{shortened(own)}: the layer has a forward of its own. If it multiplies by something that it computes "
            "from its weight (weight standardization, equalized learning rate), its zeros or its singular values are "
            "not those of the weight: leave it out with exclude. Batches, with a loss, would show it."
        )


def warn_of_collapse(masks: Masks, scores: Scores, choices: PruningChoices) -> None:
    """Warn of layers that have no weight left, and say from which sparsity on that is so."""
    if all(bool(mask.any()) for mask in masks.values()):
        return
    for name, sparsity in choices.collapse_sparsities(scores, choices.sizes(masks)[0]).items():
        if not masks[name].any():
            zero = "" if scores[name].any() else " All its scores are 0: its weights or its gradients are 0."
            _warn(
                f"Layer collapse: {name} has no weight left, from sparsity {sparsity:.4f} on.{zero} Lower the "
                "sparsity, exclude the layer, keep a minimum of weights in every layer, or give layers densities of "
                "their own by a scope such as Uniform or ERK."
            )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def copies(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Return which weights are equal to an earlier one of the same shape, and to which: copies that a module keeps.

    Example:
        >>> import copy
        >>> from torch import nn
        >>> from spl.pruning.remarks import copies
        >>> network = nn.ModuleDict({"student": nn.Linear(3, 2)})
        >>> network["teacher"] = copy.deepcopy(network["student"])
        >>> copies({name: p for name, p in network.named_parameters() if p.ndim > 1})
        {'teacher.weight': 'student.weight'}
    """
    found: dict[str, str] = {}
    seen: dict[tuple[object, ...], list[str]] = {}
    for name, weight in parameters.items():
        start = weight.detach().flatten()[:_START].tolist()
        alike = seen.setdefault((weight.shape, weight.dtype, *start), [])
        if len(set(start)) > 1 and (same := [n for n in alike if torch.equal(parameters[n], weight)]):
            found[name] = same[0]
        alike.append(name)
    return found
