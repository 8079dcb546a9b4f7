"""The methods of a comparison, by the short names of the command line: NAME[+CORRECTION][@SCOPE]."""

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from spl import criteria, isometry
from spl.cli.own_classes import find_in_current_folder
from spl.cli.suggestions import did_you_mean
from spl.compare.lottery import REWINDING, Rewinding
from spl.criteria import Criterion
from spl.errors import InputError, first_line
from spl.isometry import ApproximateIsometry, Correction, DefaultIsometry
from spl.pruning import scopes
from spl.pruning.scopes import Scope
from spl.reproduction.run import TRAINED_MAGNITUDE

DENSE = "dense"
_SYNTAX = "NAME[+CORRECTION][@SCOPE], such as SNIP, CS+AI or Random@ERK"
_SHORT = {"CS": "ConnectionSensitivity", "AI": "ApproximateIsometry"}
_KINDS: dict[type, tuple[str, ModuleType]] = {
    Criterion: ("criterion", criteria),
    Correction: ("correction", isometry),
    Scope: ("scope", scopes),
}

Choice = dict[str, Any]
"""The class_path and init_args of an object."""


@dataclass(frozen=True)
class ComparedMethod:
    """A method of a comparison: how the weights that stay are chosen, and how they are corrected.

    Attributes:
        label: the name as it was given, which tables and figures show.
        criterion: the class path of the criterion; None for the dense network.
        correction: the class path of the correction; None for none.
        scope: the class path of the scope (sparsity distribution); None for that of the configuration.
        rewinding: how rounds of iterative magnitude pruning rewind; None for a method that prunes once.
    """

    label: str
    criterion: str | None = None
    correction: str | None = None
    scope: str | None = None
    rewinding: Rewinding | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return self.criterion is None

    def pruning(self, own: Mapping[str, Any], sparsity: float) -> dict[str, Any]:
        """Return the options of `pruning` in the configuration of `spl fit`.

        Arguments that the configuration gives for a class that this method has are kept. The dense network depends on
        none of the options.

        Args:
            own: the options in the configuration.
            sparsity: the share of weights to remove.
        """
        if self.criterion is None:
            # magnitudes cost nothing to score, and at sparsity 0 nothing is removed
            return {"sparsity": 0.0, "criterion": {"class_path": "spl.criteria.Magnitude"}, "isometry": None}
        scope = {} if self.scope is None else {"scope": _choice(self.scope, own.get("scope"))}
        correction = None
        if self.correction is not None:
            correction = _choice(self.correction, own.get("isometry"))
        return {
            **own,
            **scope,
            "sparsity": sparsity,
            "criterion": self._criterion(own),
            "isometry": correction,
        }

    def _criterion(self, own: Mapping[str, Any]) -> Choice:
        assert self.criterion is not None
        if self.rewinding is not None:  # each round names its own checkpoint
            return {"class_path": self.criterion, "init_args": {"checkpoint": "of the round before"}}
        return _choice(self.criterion, own.get("criterion"))


def method_named(text: str) -> ComparedMethod:
    """Return the method with a name.

    Args:
        text: dense, or the name of a criterion with `+` and a correction and with `@` and a scope, both optional. Each
            is the name of a class of `spl`, CS or AI, or the path of an own class. In place of a criterion, LTH,
            LTH-late, LRR, LTH-shuffled and LTH-reinit are lottery tickets, without a correction.

    Raises:
        InputError: there is no such method.

    Example:
        >>> from spl.compare.methods import method_named
        >>> method_named("CS+AI@ERK").correction
        'spl.isometry.ApproximateIsometry'
        >>> method_named("Synflow")
        Traceback (most recent call last):
        spl.errors.InputError: There is no criterion Synflow. Did you mean SynFlow? A method is NAME[+CORRECTION]...
    """
    first, at, scope = text.partition("@")
    name, plus, correction = first.partition("+")
    if text == DENSE:
        return ComparedMethod(DENSE)
    if not name or (at and not scope) or (plus and not correction) or name == DENSE:
        raise InputError(f"{text!r} is no method: give {_SYNTAX}, or {DENSE} for the network that is not pruned.")
    scope_path = _class_path(scope, Scope) if at else None
    if name in REWINDING:
        if plus:
            raise InputError(f"{text!r} is no method: rewound weights are not corrected. Leave +{correction} out.")
        return ComparedMethod(text, TRAINED_MAGNITUDE, None, scope_path, REWINDING[name])
    return ComparedMethod(
        text, _class_path(name, Criterion), _class_path(correction, Correction) if plus else None, scope_path
    )


def _class_path(name: str, base: type) -> str:
    """Return the path of a class of `spl` by its name, or of an own class by its path."""
    if "." in name:
        find_in_current_folder(name)
        return _own_class_path(name, base)
    kind, module = _KINDS[base]
    known = _classes(module, base)
    if (wanted := _SHORT.get(name, name)) not in known:
        names = [*known, *(short for short, full in _SHORT.items() if full in known)]
        names += REWINDING if base is Criterion else ()
        hint = did_you_mean(name, names)
        hint = f"D{hint[1:]}" if hint else f"There are {', '.join(names)}."
        raise InputError(
            f"There is no {kind} {name}. {hint} A method is {_SYNTAX}, or {DENSE}; an own class is given by its path "
            "(own.Mine)."
        )
    return f"{module.__name__}.{wanted}"


def _classes(module: ModuleType, base: type) -> dict[str, type]:
    """Return the classes of a module that can be named."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and not inspect.isabstract(kind)
        and kind not in (base, DefaultIsometry)
        and not name.startswith("_")
    }


def _own_class_path(path: str, base: type) -> str:
    """Check that a path names a class of the kind that is needed, and return the path."""
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:
        raise InputError(
            f"{path} cannot be imported ({type(error).__name__}: {first_line(error)}): give the path of a class, such "
            "as own.Mine for the class Mine in own.py of the current folder."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise InputError(f"{path} is no {_KINDS[base][0]}: derive the class from {base.__module__}.{base.__name__}.")
    return path


def _choice(path: str, own: Any) -> Choice:
    """Return the choice of a class, with the arguments that the configuration gives if it has the same class."""
    kind = pkgutil.resolve_name(path)
    if isinstance(own, dict) and "class_path" in own:
        given = pkgutil.resolve_name(own["class_path"])
        if kind is (ApproximateIsometry if given is DefaultIsometry else given):
            return own | {"class_path": path}
    parameters = inspect.signature(kind).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        raise InputError(
            f"{path} cannot be made without {', '.join(needed)}: give the class and its arguments in the "
            "configuration, from where they are taken, or derive a class that needs none."
        )
    return {"class_path": path}
