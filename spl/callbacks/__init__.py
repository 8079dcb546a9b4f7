"""Callbacks: prune and correct before fit, measure signal propagation, report, stop safely, or on divergence."""

from spl.callbacks.cost_line import CostLine
from spl.callbacks.diagnose import Diagnose
from spl.callbacks.finite_loss import FiniteLoss
from spl.callbacks.interrupt import SafeInterrupt
from spl.callbacks.jacobian_spectrum import JacobianSpectrum
from spl.callbacks.last_checkpoint import LastCheckpoint
from spl.callbacks.prune_at_init import PruneAtInit
from spl.callbacks.requeue import Requeue
from spl.callbacks.stages import StageListener
from spl.callbacks.summary import Summary
from spl.callbacks.two_four_training import TwoFourTraining

__all__ = [
    "CostLine",
    "Diagnose",
    "FiniteLoss",
    "JacobianSpectrum",
    "LastCheckpoint",
    "PruneAtInit",
    "Requeue",
    "SafeInterrupt",
    "StageListener",
    "Summary",
    "TwoFourTraining",
]
