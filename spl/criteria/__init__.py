"""Saliency criteria: how much each weight matters, as scores from a network and batches.

| criterion | reads | rounds |
|---|---|---|
| `Magnitude`, `Random` | nothing | 1 |
| `PHEW` | nothing | 1 |
| `SynFlow` | the shape of a batch | 100 |
| `NTKSAP` | the shape of a batch | 20 |
| `ConnectionSensitivity` (SNIP) | inputs, and labels unless `targets` is without | 1 |
| `GraSP` | the same, twice | 1 |
| `IterativeSNIP`, `FORCE` | the same, in each round | 60 |
| `ShuffledInLayers`, `RedrawnWeights` | what the criterion that they wrap does | its own |
"""

from spl.criteria.connection_sensitivity import ConnectionSensitivity
from spl.criteria.controls import RedrawnWeights, ShuffledInLayers
from spl.criteria.criterion import Batch, Criterion, Scores, Subject
from spl.criteria.data_free import Magnitude, Random
from spl.criteria.grasp import GraSP
from spl.criteria.losses import Loss, Targets, scoring_loss
from spl.criteria.ntk_sap import NTKSAP
from spl.criteria.objective import LossOfLogits, Objective, first_tensor, floating_inputs
from spl.criteria.phew import PHEW
from spl.criteria.processes import Processes, dealt
from spl.criteria.skeletonization import FORCE, IterativeSNIP
from spl.criteria.synflow import SynFlow

__all__ = [
    "FORCE",
    "NTKSAP",
    "PHEW",
    "Batch",
    "ConnectionSensitivity",
    "Criterion",
    "GraSP",
    "IterativeSNIP",
    "Loss",
    "LossOfLogits",
    "Magnitude",
    "Objective",
    "Processes",
    "Random",
    "RedrawnWeights",
    "Scores",
    "ShuffledInLayers",
    "Subject",
    "SynFlow",
    "Targets",
    "dealt",
    "first_tensor",
    "floating_inputs",
    "scoring_loss",
]
