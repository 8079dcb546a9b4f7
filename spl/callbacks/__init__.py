"""Callbacks: prune and correct before fit, measure signal propagation, report, stop safely, or on divergence."""

from spl.callbacks.cost_line import CostLine
from spl.callbacks.diagnose import Diagnose
from spl.callbacks.jacobian_spectrum import JacobianSpectrum
from spl.callbacks.keep_masks import KeepMasks
from spl.callbacks.move_masks import MoveMasks
from spl.callbacks.prune_at_init import PruneAtInit
from spl.callbacks.safety.finite_loss import FiniteLoss
from spl.callbacks.safety.interrupt import SafeInterrupt
from spl.callbacks.safety.last_checkpoint import LastCheckpoint
from spl.callbacks.safety.requeue import Requeue
from spl.callbacks.stages import StageListener
from spl.callbacks.summary import Summary
from spl.callbacks.two_four_training import TwoFourTraining

__all__ = [
    "CostLine",
    "Diagnose",
    "FiniteLoss",
    "JacobianSpectrum",
    "KeepMasks",
    "LastCheckpoint",
    "MoveMasks",
    "PruneAtInit",
    "Requeue",
    "SafeInterrupt",
    "StageListener",
    "Summary",
    "TwoFourTraining",
]
