"""Imported by a process that has not imported Lightning yet, lets `pytorch_lightning` name the package `lightning`.

Tests that import from `pytorch_lightning`, or name classes of it, then run under `lightning`.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

import lightning  # noqa: F401

NAMES = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}


class Renamed(MetaPathFinder, Loader):
    """Import the modules of one package by the names that they have in the other."""

    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in NAMES else None

    def create_module(self, spec):
        first, dot, rest = spec.name.partition(".")
        module = import_module(NAMES[first] + dot + rest)
        self._own = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._own


assert not NAMES.keys() & sys.modules.keys()
sys.meta_path.insert(0, Renamed())
