"""The methods of a comparison by the short names of the command line: NAME[+CORRECTION][@SCOPE]."""

import inspect
import pkgutil
from types import ModuleType

from spl import criteria, isometry, updates
from spl.cli.own_classes import find_in_current_folder
from spl.cli.suggestions import did_you_mean
from spl.compare.lottery import REWINDING
from spl.compare.methods import DENSE, ComparedMethod, starts_dense
from spl.criteria import Criterion
from spl.errors import InputError, first_line
from spl.isometry import Correction, DefaultIsometry
from spl.pruning import scopes
from spl.pruning.scopes import Scope
from spl.reproduction.run import TRAINED_MAGNITUDE
from spl.updates import Update

_SYNTAX = "NAME[+CORRECTION][@SCOPE], such as SNIP, CS+AI or Random@ERK"
_SHORT = {"CS": "ConnectionSensitivity", "AI": "ApproximateIsometry"}
_MOVING_START = ("spl.criteria.Random", "spl.pruning.scopes.ERK")  # of SET and RigL, as published
_KINDS: dict[type, tuple[str, ModuleType]] = {
    Criterion: ("criterion", criteria),
    Correction: ("correction", isometry),
    Scope: ("scope", scopes),
    Update: ("update", updates),
}


def method_named(text: str) -> ComparedMethod:
    """Return the method with a name.

    Args:
        text: dense, or the name of a criterion with `+` and a correction and with `@` and a scope, both optional. Each
            is the name of a class of `spl`, CS or AI, or the path of an own class. In place of a criterion, SET, RigL
            and other updates start from random masks by the scope ERK and move them, GMP prunes the dense network
            while it trains, and LTH, LTH-late, LRR, LTH-shuffled and LTH-reinit are lottery tickets.

    Raises:
        InputError: there is no such method.

    Example:
        >>> from spl.compare.naming import method_named
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
    correction_path = _class_path(correction, Correction) if plus else None
    scope_path = _class_path(scope, Scope) if at else None
    if name in REWINDING:
        if plus:
            raise InputError(f"{text!r} is no method: rewound weights are not corrected. Leave +{correction} out.")
        return ComparedMethod(text, TRAINED_MAGNITUDE, None, scope_path, REWINDING[name])
    if _is_update(name):
        update = _class_path(name, Update)
        if not starts_dense(update):
            start, usual = _MOVING_START
            return ComparedMethod(text, start, correction_path, scope_path or usual, update=update)
        if plus:
            raise InputError(f"{text!r} is no method: {name} begins with the dense network. Leave +{correction} out.")
        return ComparedMethod(text, scope=scope_path, update=update)
    return ComparedMethod(text, _class_path(name, Criterion), correction_path, scope_path)


def _is_update(name: str) -> bool:
    """Return whether a name is that of an update of masks: a class of `spl.updates`, or an own one by its path."""
    if "." not in name:
        return name in _classes(updates, Update)
    find_in_current_folder(name)
    try:
        found = pkgutil.resolve_name(name)
    except Exception:  # which is reported where the class is needed
        return False
    return inspect.isclass(found) and issubclass(found, Update)


def _class_path(name: str, base: type) -> str:
    """Return the path of a class of `spl` by its name, or of an own class by its path."""
    if "." in name:
        find_in_current_folder(name)
        return _own_class_path(name, base)
    kind, module = _KINDS[base]
    known = _classes(module, base)
    if (wanted := _SHORT.get(name, name)) not in known:
        names = [*known, *(short for short, full in _SHORT.items() if full in known)]
        names += [*REWINDING, *_classes(updates, Update)] if base is Criterion else []
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
