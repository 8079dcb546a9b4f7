"""The refusal of models by a Trainer of the package of Lightning that spl does not use.

Lightning alone would say that a SparseClassifier is no LightningModule. It says so before it calls any method of the
model, so that the refusal has to be where Lightning looks at the model: `_maybe_unwrap_optimized` of Lightning 2.6
calls `_check_mixed_imports` for everything that is no LightningModule of its own package.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def refuse_models(package: str, message: str) -> None:
    """Let the Trainer of a package refuse models of spl with a message, whether it is imported already or later.

    Args:
        package: the name of the package that has the Trainer.
        message: the message of the TypeError, which is the class of Lightning's own error.

    Example:
        >>> from spl.lightning_api.other_trainer import refuse_models
        >>> refuse_models("not_installed", "The Trainer is one of not_installed.")
    """
    name = f"{package}.utilities.compile"
    if name in sys.modules:
        _change(sys.modules[name], message)
    else:
        sys.meta_path.insert(0, _Finder(name, message))


class _Finder(MetaPathFinder):
    """A finder of one module, which changes the module as soon as it is imported."""

    def __init__(self, name: str, message: str) -> None:
        self.name, self.message = name, message

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec that the other finders find, with a loader that changes the module; None for others."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                _change(module, self.message)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _change(module: ModuleType, message: str) -> None:
    """Let the function that Lightning calls for a model of another package refuse models of spl."""
    check = getattr(module, "_check_mixed_imports", None)
    if check is None:  # a later release: the Trainer says in its own words that it cannot take the model
        return

    def refuse_or_check(model: Any) -> None:
        kind = type(getattr(model, "_orig_mod", model))  # of the model that torch.compile has wrapped
        if any(base.__module__.partition(".")[0] == "spl" for base in kind.__mro__):
            raise TypeError(message)
        check(model)

    module._check_mixed_imports = refuse_or_check  # type: ignore[attr-defined]
