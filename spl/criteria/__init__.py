"""Saliency criteria, which score how much each weight of a network matters (its importance).

What each reads, and in how many rounds it prunes:

- `Magnitude`, `Random`, `PHEW`, `SAO`: nothing, 1 round
- `TrainedMagnitude`: a checkpoint, 1 round
- `NPB`: the shape of a batch, 1 round
- `SynFlow`: the shape of a batch, 100 rounds
- `NTKSAP`: the shape of a batch, 20 rounds
- `PX`: inputs, in each of 100 rounds
- `ConnectionSensitivity`, `SNIP`: inputs, and labels unless `targets` is without, 1 round
- `GraSP`: the same, twice, 1 round
- `ProsPr`: the same, of 4 batches, 1 round
- `IterativeSNIP`, `FORCE`: the same, in each of 60 rounds
- `ShuffledInLayers`, `RedrawnWeights`: what the criterion that they wrap does
"""

from spl.criteria.connection_sensitivity import FORCE, SNIP, ConnectionSensitivity, IterativeSNIP
from spl.criteria.controls import RedrawnWeights, ShuffledInLayers
from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.data_free import Magnitude, Random
from spl.criteria.grasp import GraSP
from spl.criteria.losses import Targets, scoring_loss
from spl.criteria.npb import NPB
from spl.criteria.ntk_sap import NTKSAP
from spl.criteria.phew import PHEW
from spl.criteria.prospr import ProsPr
from spl.criteria.px import PX
from spl.criteria.sao import SAO
from spl.criteria.synflow import SynFlow
from spl.criteria.trained_magnitude import TrainedMagnitude

__all__ = [
    "FORCE",
    "NPB",
    "NTKSAP",
    "PHEW",
    "PX",
    "SAO",
    "SNIP",
    "ConnectionSensitivity",
    "Criterion",
    "GraSP",
    "IterativeSNIP",
    "Magnitude",
    "ProsPr",
    "Random",
    "RedrawnWeights",
    "Scores",
    "ShuffledInLayers",
    "Subject",
    "SynFlow",
    "Targets",
    "TrainedMagnitude",
    "scoring_loss",
]
