"""Pruning: from scores to masks. Pure functions that leave the network as they found it."""

from spl.pruning.parameters import prunable_parameters
from spl.pruning.rounds import find_masks, prune, score
from spl.pruning.rule import Rule, select
from spl.pruning.sparsity import check_sparsity, keep_count

__all__ = ["Rule", "check_sparsity", "find_masks", "keep_count", "prunable_parameters", "prune", "score", "select"]
