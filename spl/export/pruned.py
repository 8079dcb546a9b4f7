"""A network as its masks leave it."""

from copy import deepcopy

from torch import nn

from spl.masks.masks import Masks


def pruned_copy(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy in evaluation mode whose pruned weights are 0.

    Args:
        network: left as it was found.
        masks: by the names of its parameters.

    Raises:
        InputError: a mask does not fit.
    """
    copied = deepcopy(network).eval()
    masks.apply_(dict(copied.named_parameters()))
    return copied
