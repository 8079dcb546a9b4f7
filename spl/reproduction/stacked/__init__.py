"""Populations: many small networks of one architecture that train as one, each exactly as it would alone."""

from spl.reproduction.stacked.compatibility import can_be_stacked
from spl.reproduction.stacked.prepared_run import Member, prepare
from spl.reproduction.stacked.training import train

__all__ = ["Member", "can_be_stacked", "prepare", "train"]
