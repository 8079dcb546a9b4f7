"""Weights that start, when they grow, at values that keep their layer near isometry."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from spl.isometry.growth import isometric_growth
from spl.isometry.pruned_layer import convolution_geometry, is_matrix_or_known, oriented
from spl.masks.masks import Masks


@torch.no_grad()
def isometric_starts(
    network: nn.Module, parameters: Mapping[str, Tensor], before: Masks, after: Masks
) -> dict[str, Tensor]:
    """Return the weights of each layer in which some grow, with values for these; see `isometric_growth`.

    σ is the root mean square of the singular values that the layer had before the update. Biases, and weights of which
    it is not known of which matrices they consist, are left out.

    Args:
        network: the network.
        parameters: its parameters by name, as they were before the update.
        before: the masks before the update.
        after: the masks after it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl import Masks
        >>> from spl.updates.isometric_start import isometric_starts
        >>> layer = nn.Linear(3, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.eye(2, 3))
        >>> before = Masks({"weight": torch.tensor([[True, False, False], [False, True, False]])})
        >>> after = Masks({"weight": torch.tensor([[True, False, False], [False, False, True]])})
        >>> isometric_starts(layer, {"weight": layer.weight}, before, after)["weight"].abs()
        tensor([[1.00, 0.00, 0.00],
                [0.00, 0.00, 1.00]])
    """
    starts = {}
    for name in before:
        grown = after[name] & ~before[name]
        if not bool(grown.any()) or grown.ndim < 2 or not is_matrix_or_known(network, name, parameters[name]):
            continue
        weight, kept, new = (oriented(network, name, t) for t in (parameters[name].detach(), after[name], grown))
        kept, new = kept.to(weight.device), new.to(weight.device)
        groups = convolution_geometry(network, name).get("groups", 1)
        count = groups * min(weight.shape[0] // groups, weight[0].numel())
        gain = float(weight.norm()) / sqrt(count)
        if gain > 0:
            found = isometric_growth(weight * (kept & ~new), kept, new, gain, groups)
            starts[name] = oriented(network, name, found)
    return starts
