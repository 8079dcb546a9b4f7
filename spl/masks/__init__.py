"""Masks that say which weights of a network are kept, and that hold the pruned ones at 0.0 while it trains."""

from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import BoundMasks, Masks

__all__ = ["BoundMasks", "MaskedWeights", "Masks"]
