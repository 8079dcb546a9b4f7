"""Approximate isometry as the reference implementation computes it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.correction import Correction, Gain
from spl.isometry.pruned_layer import PrunedLayer


class GradientDescentIsometry(Correction):
    """Approximate isometry (AI) as in the authors' code, for comparison: gradient descent on ‖(C⊙W)ᵀ(C⊙W) − σ² I‖_F.

    It always takes the Gram matrix of the outputs, descends the norm itself and not its square, and has a fixed
    learning rate. `ApproximateIsometry` ends closer to isometry and sooner.

    Args:
        gain: σ; see `Correction`. The authors' is 1.
        learning_rate: the learning rate of the steps.
        iterations: the number of steps.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import Magnitude
        >>> from spl.isometry import GradientDescentIsometry
        >>> from spl.pruning import prune
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> correction = GradientDescentIsometry(learning_rate=0.05, iterations=50)
        >>> masks, changes = correction(network, prune(network, Magnitude(), sparsity=0.5))
        >>> changes["0.weight"].before.matrix, changes["0.weight"].after.matrix
        (1.89, 0.72)
    """

    def __init__(self, gain: Gain = 1.0, learning_rate: float = 0.1, iterations: int = 10_000) -> None:
        super().__init__(gain)
        if not learning_rate > 0:
            raise InputError(f"learning_rate must be positive, got {learning_rate}.")
        if iterations < 1:
            raise InputError(f"iterations must be at least 1, got {iterations}.")
        self.learning_rate = learning_rate
        self.iterations = iterations

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Correct the layers one after another."""
        for layer in tqdm(layers, desc="Isometry", unit="layer", delay=1, leave=False, disable=None):
            self._descend(layer)

    def _descend(self, layer: PrunedLayer) -> None:
        blocks, kept = (tensor.chunk(layer.groups) for tensor in (layer.weight, layer.mask))
        frames = [_live_part(k) for k in kept]
        dead = sum(len(b) - len(f) for b, f in zip(blocks, frames, strict=True))  # outputs that keep no weight
        matrices = [b.new_zeros(f.shape) for b, f in zip(blocks, frames, strict=True)]
        for matrix, frame, block, k in zip(matrices, frames, blocks, kept, strict=True):
            matrix[frame] = block[k]
        for _ in range(self.iterations):
            grams = [matrix @ matrix.mT for matrix in matrices]
            for gram in grams:
                gram.diagonal().sub_(layer.gain**2)
            length = (torch.stack([gram.square().sum() for gram in grams]).sum() + dead * layer.gain**4).sqrt()
            if not length > 0:
                break
            for matrix, frame, gram in zip(matrices, frames, grams, strict=True):
                matrix -= (2 * self.learning_rate / length) * (gram @ matrix) * frame
        for matrix, frame, block, k in zip(matrices, frames, blocks, kept, strict=True):
            block[k] = matrix[frame]


def _live_part(mask: Tensor) -> Tensor:
    """Return `mask` as a matrix without its empty rows and columns.

    Leaving them out changes a residual by a constant: they only add zeros to V Vᵀ, and the spectra of V Vᵀ and Vᵀ V
    differ only in zeros.
    """
    matrix = mask.flatten(1)
    return matrix[matrix.any(1)][:, matrix.any(0)]
