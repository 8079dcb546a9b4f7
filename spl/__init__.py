"""Prune neural networks at initialization, look at how signals propagate, repair it, and train what is left."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spl.callbacks import JacobianSpectrum, MoveMasks, PruneAtInit
    from spl.classifier import SparseClassifier
    from spl.diagnosis import diagnose
    from spl.errors import InputError
    from spl.jacobian import Spectrum, singular_values
    from spl.masks import MaskedWeights, Masks
    from spl.pruning import prune
    from spl.sparsify import sparsify
    from spl.updates import MovingMasks

    __version__: str

__all__ = [
    "InputError",
    "JacobianSpectrum",
    "MaskedWeights",
    "Masks",
    "MoveMasks",
    "MovingMasks",
    "PruneAtInit",
    "SparseClassifier",
    "Spectrum",
    "__version__",
    "diagnose",
    "prune",
    "singular_values",
    "sparsify",
]

_HOMES = {
    "InputError": "spl.errors",
    "JacobianSpectrum": "spl.callbacks",
    "MaskedWeights": "spl.masks",
    "Masks": "spl.masks",
    "MoveMasks": "spl.callbacks",
    "MovingMasks": "spl.updates",
    "PruneAtInit": "spl.callbacks",
    "SparseClassifier": "spl.classifier",
    "Spectrum": "spl.jacobian",
    "diagnose": "spl.diagnosis",
    "prune": "spl.pruning",
    "singular_values": "spl.jacobian",
    "sparsify": "spl.sparsify",
}
_MOVED = {
    "spl.module": "spl.classifier",
    "spl.patterns": "spl.pruning.patterns",
    "spl.schedules": "spl.criteria.schedules",
    "spl.scopes": "spl.pruning.scopes",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that nothing waits for libraries that it does not use."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("spl-lightning")
        except PackageNotFoundError:  # a source tree on the path, where nothing was installed
            return "unknown"
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'spl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """The module `spl`, in which `sparsify` is always the function, though a module of that name is imported too."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "sparsify" and isinstance(value, ModuleType):
            value = value.sparsify
        super().__setattr__(name, value)


class _Moved(MetaPathFinder, Loader):
    """Import modules by the names that saved configurations have for them, from before they moved."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how to import a module that has moved; None for every other module."""
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
sys.modules[__name__].__class__ = _Face
