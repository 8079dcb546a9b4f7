"""A correction that rescales pruned layers to the edge of chaos."""

from collections.abc import Sequence
from math import sqrt

from spl.isometry.correction import Correction
from spl.isometry.pruned_layer import PrunedLayer


class EdgeOfChaos(Correction):
    """The rescaling of each layer by one factor to the critical variance, fan_in · mean(W²) = σ_w².

    The mean is over all entries, pruned ones included. So the variance that pruning has taken is given back: signals
    keep their mean square, though not their directions. It is the rescaling of SBP-SR, Hayou et al. 2021
    (Robust Pruning at Initialization), computed from the weights alone.

    Args:
        gain: σ_w; see `Correction`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Random
        >>> from spl.isometry import EdgeOfChaos
        >>> from spl.pruning import prune
        >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> masks, changes = EdgeOfChaos()(network, prune(network, Random(), sparsity=0.5))
        >>> 8 * network[0].weight.square().mean().item()
        2.00
    """

    def singular_value_count(self, layer: PrunedLayer) -> int:
        """Return the number of outputs: a corrected layer has ‖V‖² = σ_w² times as much."""
        return layer.weight.shape[0]

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Rescale every layer; a layer that lost every weight stays 0."""
        for layer in layers:
            mean_square = float(layer.weight.double().square().mean()) * layer.weight[0].numel()
            if mean_square > 0:
                layer.weight.mul_(layer.gain / sqrt(mean_square))
