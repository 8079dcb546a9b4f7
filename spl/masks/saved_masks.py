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
