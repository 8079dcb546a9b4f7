"""Stacked training: many small networks of one architecture train as one, each exactly as it would alone."""

from spl.reproduction.stacked.compatibility import can_be_stacked
from spl.reproduction.stacked.prepared_run import PreparedRun, prepare
from spl.reproduction.stacked.training import train

__all__ = ["PreparedRun", "can_be_stacked", "prepare", "train"]
