"""Approximate isometry as the reference computes it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from spl.errors import InputError
from spl.isometry.correction import Correction, Gain, PrunedLayer


class GradientDescentIsometry(Correction):
    """AI as in the authors' code, for comparison: steps of fixed length down ‖(C⊙W)ᵀ(C⊙W) − σ² I‖_F.

    Always the Gram matrix of the outputs, and the norm itself, not its square. `ApproximateIsometry` ends closer and
    sooner.

    Args:
        gain: σ; see `Correction`. The authors' is 1.
        learning_rate: of the steps.
        iterations: number of steps.
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
        """See `Correction`; layers do not share weights, so each goes its way alone."""
        for layer in tqdm(layers, desc="Isometry", unit="layer", delay=1, leave=False, disable=None):
            self._descend(layer)

    def _descend(self, layer: PrunedLayer) -> None:
        blocks, kept = (tensor.chunk(layer.groups) for tensor in (layer.weight, layer.mask))
        frames = [_live_part(k) for k in kept]
        dead = sum(len(b) - len(f) for b, f in zip(blocks, frames, strict=True))  # outputs without a weight
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
    """The rows and columns of `mask`, as a matrix, that keep anything.

    Without the others every residual is what it was, but for a constant: they add nothing but zeros to V Vᵀ, and the
    spectra of V Vᵀ and Vᵀ V differ in zeros alone.
    """
    matrix = mask.flatten(1)
    return matrix[matrix.any(1)][:, matrix.any(0)]
