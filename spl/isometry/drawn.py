"""The base of corrections that draw the weights of each layer anew."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from spl.isometry.correction import Correction, Gain
from spl.isometry.pruned_layer import PrunedLayer


class Drawn(Correction):
    """A correction that draws the kernel of each group of each layer, with singular values σ in its middle tap.

    Args:
        gain: σ; see `Correction`.
        seed: the seed of the draws, which are made on the CPU and so are equal on every process and device; null for
            a number that the seed of the run decides.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.isometry.drawn import Drawn, middle_tap
        >>> from spl.masks import Masks
        >>> class Identity(Drawn):
        ...     def draw(self, mask, generator):
        ...         values = torch.zeros(mask.shape)
        ...         values[middle_tap(mask.shape)] = torch.eye(*mask.shape[:2])
        ...         return values, mask
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> masks, changes = Identity(gain=1.0)(network, Masks({"0.weight": torch.ones(2, 3, dtype=torch.bool)}))
        >>> network[0].weight.tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def __init__(self, gain: Gain = "mean_field", seed: int | None = None) -> None:
        super().__init__(gain)
        self.seed = seed

    @abstractmethod
    def draw(self, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return weights and mask of a kernel [out, in, ...], for the gain 1, under the mask that it has."""

    def singular_value_count(self, layer: PrunedLayer) -> int:
        """Return how many singular values, σ each, the middle taps of a corrected layer have."""
        outputs, inputs = layer.weight.shape[:2]
        return layer.groups * min(outputs // layer.groups, inputs)

    def correct_(self, layers: Sequence[PrunedLayer]) -> None:
        """Draw every layer."""
        generator = torch.Generator().manual_seed(self.start)
        for layer in layers:
            for weight, mask in zip(layer.weight.chunk(layer.groups), layer.mask.chunk(layer.groups), strict=True):
                values, kept = self.draw(mask, generator)
                weight.copy_(layer.gain * values)
                mask.copy_(kept)


def middle_tap(shape: Sequence[int]) -> tuple[slice | int, ...]:
    """Return the index of the matrix [out, in] in the middle of a kernel [out, in, ...].

    Example:
        >>> from spl.isometry.drawn import middle_tap
        >>> middle_tap((8, 4, 3, 3))
        (slice(None, None, None), slice(None, None, None), 1, 1)
    """
    return slice(None), slice(None), *((size - 1) // 2 for size in shape[2:])
