"""The masks in a checkpoint, and the digest by which it is seen whether they are those that were saved."""

from collections.abc import Mapping
from typing import Any

from spl.errors import InputError
from spl.masks.masks import Masks

_MASKS = "masks"
DIGEST = "masks_sha256"  # in the checkpoint; earlier versions have it only in the record of PruneAtInit


def save_masks(masks: Masks, checkpoint: dict[str, Any]) -> None:
    """Add the masks to a checkpoint, bool tensors by name, and their digest."""
    checkpoint[_MASKS] = dict(masks)
    checkpoint[DIGEST] = masks.digest()


def masks_in(state: Any) -> Masks:
    """Return the masks in what `MaskedWeights.state_dict` has returned.

    Raises:
        InputError: there are none, or they have no digest.

    Example:
        >>> import torch
        >>> from spl.masks import Masks
        >>> from spl.masks.saved_masks import masks_in, save_masks
        >>> state = {}
        >>> save_masks(Masks({"fc.weight": torch.tensor([True, False])}), state)
        >>> masks_in(state)["fc.weight"]
        tensor([ True, False])
    """
    saved = state.get(_MASKS) if isinstance(state, Mapping) else None
    if not isinstance(saved, Mapping):
        raise InputError(
            f"These are not the masks of a network, but {ascii(state)[:60]}: give what MaskedWeights.state_dict() has "
            "returned."
        )
    if DIGEST not in state:
        raise InputError(
            "These masks have no digest by which to see that they are those that were saved: give what "
            "MaskedWeights.state_dict() has returned, or hold(Masks(...))."
        )
    return Masks(saved)


def check_zeros(masks: Masks, weights: Mapping[str, Any]) -> None:
    """Raise an `InputError` if masks prune weights of a checkpoint that are not 0; absent weights do not count.

    Example:
        >>> import torch
        >>> from spl.masks import Masks
        >>> from spl.masks.saved_masks import check_zeros
        >>> check_zeros(Masks({"weight": torch.tensor([True, False])}), {"weight": torch.tensor([3.0, 2.0])})
        Traceback (most recent call last):
        spl.errors.InputError: The masks of the checkpoint prune weights that are not 0 in it: weight (1)...
    """
    fitting = Masks({name: m for name, m in masks.items() if getattr(weights[name], "shape", None) == m.shape})
    if revived := fitting.revived(weights):
        counts = ", ".join(f"{name} ({count})" for name, count in revived.items())
        raise InputError(
            f"The masks of the checkpoint prune weights that are not 0 in it: {counts}. It was changed after it was "
            "written: give another one."
        )


def check_digest(masks: Masks, checkpoint: Mapping[str, Any]) -> None:
    """Raise an `InputError` if the masks of a checkpoint are not those that were saved with it.

    Example:
        >>> import torch
        >>> from spl.masks import Masks
        >>> from spl.masks.saved_masks import check_digest, save_masks
        >>> checkpoint = {}
        >>> save_masks(Masks({"fc.weight": torch.tensor([True, False])}), checkpoint)
        >>> check_digest(Masks({"fc.weight": torch.tensor([False, True])}), checkpoint)
        Traceback (most recent call last):
        spl.errors.InputError: The masks of the checkpoint are not those that were saved with it...
    """
    saved, own = checkpoint.get(DIGEST) or _recorded_digest(checkpoint.get("callbacks")), masks.digest()
    if saved is not None and saved != own:
        raise InputError(
            f"The masks of the checkpoint are not those that were saved with it (their SHA-256 is {own[:12]}…, but "
            f"{ascii(saved)[:12]}… is recorded): it was changed after it was written. Give another one."
        )


def _recorded_digest(callbacks: Any) -> Any:
    """Return the digest in the record of the callback that pruned the network, if there is one."""
    states = callbacks.values() if isinstance(callbacks, Mapping) else ()
    records = [state.get("record") for state in states if isinstance(state, Mapping)]
    return next((record[DIGEST] for record in records if isinstance(record, Mapping) and DIGEST in record), None)
