"""Prune neural networks at initialization, look at how signals propagate, repair it, and train what is left."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spl.callbacks import JacobianSpectrum, PruneAtInit
    from spl.classifier import SparseClassifier
    from spl.diagnosis import diagnose
    from spl.errors import InputError
    from spl.masks import MaskedWeights, Masks
    from spl.pruning import prune

    __version__: str

__all__ = [
    "InputError",
    "JacobianSpectrum",
    "MaskedWeights",
    "Masks",
    "PruneAtInit",
    "SparseClassifier",
    "__version__",
    "diagnose",
    "prune",
]

_HOMES = {
    "InputError": "spl.errors",
    "JacobianSpectrum": "spl.callbacks",
    "MaskedWeights": "spl.masks",
    "Masks": "spl.masks",
    "PruneAtInit": "spl.callbacks",
    "SparseClassifier": "spl.classifier",
    "diagnose": "spl.diagnosis",
    "prune": "spl.pruning",
}
_MOVED = {
    "spl.module": "spl.classifier",
    "spl.patterns": "spl.pruning.patterns",
    "spl.schedules": "spl.criteria.schedules",
    "spl.scopes": "spl.pruning.scopes",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: only what is used of Lightning and PyTorch is waited for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("spl")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'spl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Moved(MetaPathFinder, Loader):
    """Finds modules by the names that saved configurations have for them, from before they moved."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how to import a module that has moved; None for every other."""
        return ModuleSpec(name, self) if name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module under its new name."""
        module = import_module(_MOVED[spec.name])
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back; it was executed under its new name."""
        module.__spec__ = self._own


sys.meta_path.append(_Moved())
