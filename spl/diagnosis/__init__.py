"""Diagnosis: whether a sparse network will train, why or why not, and what to change. Pure functions on tensors."""

from spl.diagnosis.diagnosis import Diagnosis, diagnose
from spl.diagnosis.layers import LayerDiagnosis, LayerSpectrum
from spl.diagnosis.paths import Paths, find_paths
from spl.diagnosis.verdict import Evidence, Verdict, judge

__all__ = [
    "Diagnosis",
    "Evidence",
    "LayerDiagnosis",
    "LayerSpectrum",
    "Paths",
    "Verdict",
    "diagnose",
    "find_paths",
    "judge",
]
