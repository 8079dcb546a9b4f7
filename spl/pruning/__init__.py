"""Pruning: from a network to scores and masks, by pure functions that leave the network as they found it."""

from spl.pruning.choices import PruningChoices
from spl.pruning.parameters import prunable_parameters
from spl.pruning.rounds import find_masks, prune, score
from spl.pruning.rule import Rule, check_sparsity, keep_count, select

__all__ = [
    "PruningChoices",
    "Rule",
    "check_sparsity",
    "find_masks",
    "keep_count",
    "prunable_parameters",
    "prune",
    "score",
    "select",
]
