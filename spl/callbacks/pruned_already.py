"""Networks that come to fit pruned already: their zeros are recognized, and become masks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning import PruningChoices, Rule

_SHARE = 0.1  # of a weight, or of all of them, that is 0 in a pruned network
_CHANCE = 1e-4  # the share of zeros up to which they may be random numbers; in half precision 2e-6 were measured


@torch.no_grad()
def masks_of_zeros(parameters: Mapping[str, Tensor], choices: PruningChoices) -> Masks | None:
    """Return the masks that prune exactly the zeros of a network that was pruned before, or None if it is dense.

    Of weights that are drawn at random, hardly any is exactly 0. Initializations that set weights to 0 do so in a
    regular way: a whole layer (residual branches, adapters), one row (padding), all taps of a kernel but some
    (delta-orthogonal, Dirac), or all but a diagonal (identity). Such layers alone do not make a network a pruned one.
    It counts as pruned if other weights have zeros, and either all zeros together are as many as the choices prune, or
    the zeros of those weights are at least a tenth of all weights, or half of the layers have them (a pruned network
    with a new head).

    Args:
        parameters: the parameters that would be pruned, by name.
        choices: what is asked for. At sparsity 0 nothing is pruned or corrected, so any network counts as dense.

    Raises:
        InputError: the network is pruned already, to another sparsity or with another pattern.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(4, 4)
        >>> print(masks_of_zeros({"weight": layer.weight}, PruningChoices(sparsity=0.5)))
        None
        >>> layer.weight.data[torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), torch.tensor([0, 1, 1, 2, 2, 3, 3, 0])] = 0.0
        >>> masks_of_zeros({"weight": layer.weight}, PruningChoices(sparsity=0.5))
        Masks(1 parameters, kept 8 of 16, sparsity 0.5000)
    """
    if choices.sparsity == 0:
        return None
    zeros = {name: parameter.numel() - int(parameter.count_nonzero()) for name, parameter in parameters.items()}
    some = [name for name, p in parameters.items() if _CHANCE * p.numel() < zeros[name] < p.numel()]
    sparse = [name for name in some if not _regular(parameters[name] != 0)]
    if not sparse:
        return None
    masks = Masks({name: (parameter != 0).cpu() for name, parameter in parameters.items()})
    shapes, keep = choices.sizes(parameters)
    if choices.could_have_made(shapes, keep, masks.kept) and _has_pattern(masks, choices):
        return masks
    layers = [name for name, p in parameters.items() if p.ndim > 1 and zeros[name] < p.numel()]
    many = [name for name in sparse if name in layers and zeros[name] >= _SHARE * parameters[name].numel()]
    if sum(zeros[name] for name in many) < _SHARE * masks.size and 2 * len(many) < len(layers):
        return None
    raise InputError(_message(masks, many, choices))


def _regular(kept: Tensor) -> bool:
    """Return whether an initialization leaves weights that are not 0 at these places: one row, taps, a diagonal."""
    if kept.ndim < 2:
        return False
    if int((~kept).flatten(1).any(1).count_nonzero()) == 1 and bool((~kept).flatten(1).all(1).any()):
        return True
    if kept.ndim > 2 and bool((kept == kept[:1, :1]).all()):
        return True
    rows, columns = kept.flatten(2).any(2).nonzero(as_tuple=True) if kept.ndim > 2 else kept.nonzero(as_tuple=True)
    return bool((rows % kept.shape[1] == columns).all())


def _has_pattern(masks: Masks, choices: PruningChoices) -> bool:
    """Return whether the pattern that is asked for can have made the masks."""
    if choices.pattern.coupled:  # whole rows and whole columns
        return all(torch.equal(mask, _crossed(mask)) for mask in masks.values())
    rule = Rule(pattern=choices.pattern)
    kept = {name: mask.float() for name, mask in masks.items()}
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    return rule.masks(rule.pooled(kept), shapes, masks.kept) == masks


def _crossed(mask: Tensor) -> Tensor:
    """Return the mask of the rows and columns in which a mask keeps any weight."""
    if mask.ndim == 1:
        return mask
    rows, columns = mask.flatten(1).any(1), mask.transpose(0, 1).flatten(1).any(1)
    return (rows[:, None] & columns).view(*mask.shape[:2], *(1,) * (mask.ndim - 2)).expand_as(mask)


def _message(masks: Masks, layers: list[str], choices: PruningChoices) -> str:
    named = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    empty = [name for name, mask in masks.items() if mask.ndim > 1 and not mask.any()]
    advice = "Layers that an initialization has made sparse can stay dense: exclude them."
    if empty:
        advice = f"Layers that an initialization has set to 0 can stay dense: exclude them ({', '.join(empty)})."
    return (
        f"The weights are pruned already: {masks.size - masks.kept} of {masks.size} are exactly 0 (in {named}), which "
        f"is sparsity {masks.sparsity:.12g}, but {choices.sparsity:.12g} with the pattern "
        f"{type(choices.pattern).__name__} is asked for. Trained weights are not pruned and corrected again: start "
        f"from a dense network, or give the sparsity and the pattern that it has to keep its zeros. {advice}"
    )
