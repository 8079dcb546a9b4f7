"""Populations: many small networks of one architecture that train as one, each exactly as it would alone."""

from spl.population.member import Member, prepare
from spl.population.training import train

__all__ = ["Member", "prepare", "train"]
