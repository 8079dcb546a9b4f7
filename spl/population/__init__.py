"""Populations: many small networks of one architecture that train as one, each exactly as it would alone."""

from spl.population.agreement import can_be_stacked
from spl.population.member import Member, prepare
from spl.population.training import train

__all__ = ["Member", "can_be_stacked", "prepare", "train"]
