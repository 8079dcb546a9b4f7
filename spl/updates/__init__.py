"""Updates of masks while a network trains: weights are dropped and grown (SET, RigL), or more and more pruned (GMP)."""

from spl.updates.drop_and_grow import DropAndGrow
from spl.updates.fractions import constant, cosine
from spl.updates.methods import GMP, SET, RigL
from spl.updates.moving_masks import MovingMasks
from spl.updates.scores import at_random, largest_gradient, smallest_magnitude
from spl.updates.sparsities import cubic
from spl.updates.update import Snapshot, Update

__all__ = [
    "GMP",
    "SET",
    "DropAndGrow",
    "MovingMasks",
    "RigL",
    "Snapshot",
    "Update",
    "at_random",
    "constant",
    "cosine",
    "cubic",
    "largest_gradient",
    "smallest_magnitude",
]
