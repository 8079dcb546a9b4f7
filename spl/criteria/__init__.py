"""Saliency criteria: how much each weight matters, as scores from a network and batches."""

from spl.criteria.connection_sensitivity import ConnectionSensitivity
from spl.criteria.criterion import Batch, Criterion, Loss, Scores, Subject, Targets, scoring_loss
from spl.criteria.data_free import Magnitude, Random

__all__ = [
    "Batch",
    "ConnectionSensitivity",
    "Criterion",
    "Loss",
    "Magnitude",
    "Random",
    "Scores",
    "Subject",
    "Targets",
    "scoring_loss",
]
