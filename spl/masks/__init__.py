"""Masks: which weights are alive, and how their zeros are kept while anything trains the network."""

from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import BoundMasks, Masks

__all__ = ["BoundMasks", "MaskedWeights", "Masks"]
