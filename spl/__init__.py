"""Prune neural networks at initialization, look at how signals propagate, repair it, and train what is left."""

from spl.callbacks import JacobianSpectrum, PruneAtInit
from spl.errors import InputError
from spl.masks import Masks
from spl.module import SparseClassifier
from spl.pruning import prune

__all__ = ["InputError", "JacobianSpectrum", "Masks", "PruneAtInit", "SparseClassifier", "prune"]
