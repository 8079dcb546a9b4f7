"""Saliency criteria, which score how much each weight of a network matters (its importance).

| criterion | reads | rounds |
|---|---|---|
| `Magnitude`, `Random` | nothing | 1 |
| `PHEW` | nothing | 1 |
| `SynFlow` | the shape of a batch | 100 |
| `NTKSAP` | the shape of a batch | 20 |
| `ConnectionSensitivity`, `SNIP` | inputs, and labels unless `targets` is without | 1 |
| `GraSP` | the same, twice | 1 |
| `IterativeSNIP`, `FORCE` | the same, in each round | 60 |
| `ShuffledInLayers`, `RedrawnWeights` | what the criterion that they wrap does | its own |
"""

from spl.criteria.connection_sensitivity import FORCE, SNIP, ConnectionSensitivity, IterativeSNIP
from spl.criteria.controls import RedrawnWeights, ShuffledInLayers
from spl.criteria.criterion import Criterion, Scores, Subject
from spl.criteria.data_free import Magnitude, Random
from spl.criteria.grasp import GraSP
from spl.criteria.losses import Targets, scoring_loss
from spl.criteria.ntk_sap import NTKSAP
from spl.criteria.phew import PHEW
from spl.criteria.synflow import SynFlow

__all__ = [
    "FORCE",
    "NTKSAP",
    "PHEW",
    "SNIP",
    "ConnectionSensitivity",
    "Criterion",
    "GraSP",
    "IterativeSNIP",
    "Magnitude",
    "Random",
    "RedrawnWeights",
    "Scores",
    "ShuffledInLayers",
    "Subject",
    "SynFlow",
    "Targets",
    "scoring_loss",
]
