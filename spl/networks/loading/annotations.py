"""Arguments of classes, rebuilt by their annotations from the plain values that jsonargparse writes.

jsonargparse itself would import what a string names, call functions, and read files. Here a string becomes a member
of an enumeration, a path that is not read, or one of the classes that are given. Nothing is looked up elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from inspect import signature
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from spl.networks.loading.plain import NotAllowedError, quoted

_UNSERIALIZED = "Unable to serialize instance "  # what jsonargparse writes for a default that it cannot serialize
_CALLABLE = (type, Callable, FunctionType, BuiltinFunctionType)  # jsonargparse writes the paths of these

Classes = Mapping[str, type]
"""The classes that may be called, by the path that names them."""


def instantiate(entry: Mapping[str, Any], classes: Classes) -> Any:
    """Return an object of the class that an entry names, with the arguments in the entry.

    Args:
        entry: the class and its arguments as jsonargparse writes them, checked by `class_paths`.
        classes: the classes that may be called, among them that of the entry.

    Raises:
        NotAllowedError: an argument must be a class, and is not one of `classes`.

    Example:
        >>> from spl.networks.loading.annotations import instantiate
        >>> from spl.networks import MLP
        >>> entry = {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "width": 5}}
        >>> len(instantiate(entry, {"spl.networks.MLP": MLP}))
        5
    """
    return _bind(entry, classes)()


def _bind(entry: Mapping[str, Any], classes: Classes) -> "partial[Any]":
    """Bind the arguments of an entry to its class, which is not called yet."""
    cls = classes[entry["class_path"]]
    given = entry.get("init_args", {}) | entry.get("dict_kwargs", {})
    return partial(cls, **_convert_arguments(given, _hints(cls), classes))


def _convert_arguments(given: Mapping[str, Any], hints: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    return {name: _convert(value, hints.get(name), classes) for name, value in given.items() if not _is_default(value)}


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's arguments: as it and its parents annotate them, otherwise those of the defaults."""
    hints: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        init = vars(parent).get("__init__", object.__init__)
        hints |= {name: type(p.default) for name, p in signature(init).parameters.items() if p.default is not p.empty}
        with suppress(NameError, TypeError, AttributeError):  # from types that are imported only for type checkers
            hints |= get_type_hints(init)
    return hints


def _is_default(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_UNSERIALIZED)


def _convert(value: Any, hint: Any, classes: Classes) -> Any:
    """Return the argument that a plain value stands for, where `hint` is its annotation."""
    if isinstance(value, dict) and "class_path" in value:
        bound = _bind(value, classes)
        return bound if _wants_factory(hint, bound.func) else bound()
    if get_origin(hint) in (Union, UnionType):
        hint = next((member for member in get_args(hint) if _matches(value, member)), None)
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if isinstance(value, list | tuple):
        return _convert_collection(value, kind, parts, classes)
    if isinstance(value, dict):
        if is_dataclass(kind) and isinstance(kind, type):
            return kind(**_convert_arguments(value, get_type_hints(kind), classes))
        of_values = parts[1] if len(parts) == 2 else None
        return {key: _convert(part, of_values, classes) for key, part in value.items()}
    return _convert_text(value, kind, classes) if isinstance(value, str) else value


def _convert_collection(values: Iterable[Any], kind: Any, parts: tuple[Any, ...], classes: Classes) -> Any:
    """Return a tuple or set where one is annotated, otherwise a list, with each element as it is annotated."""
    values = list(values)
    each = parts if kind is tuple and ... not in parts else parts[:1] * len(values)
    converted = [_convert(v, each[i] if i < len(each) else None, classes) for i, v in enumerate(values)]
    return kind(converted) if kind in (tuple, set, frozenset) else converted


def _convert_text(value: str, kind: Any, classes: Classes) -> Any:
    """Return the object that a string stands for where one of this kind is annotated."""
    if kind in _CALLABLE:
        if value not in classes:
            raise NotAllowedError(quoted(value))
        return classes[value]
    if isinstance(kind, type) and issubclass(kind, Enum) and value in kind.__members__:
        return kind[value]
    return kind(value) if isinstance(kind, type) and issubclass(kind, PurePath) else value


def _matches(value: object, hint: Any) -> bool:
    """Return whether a plain value can stand for this member of a union."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    if not isinstance(kind, type):
        return False
    if isinstance(value, str):
        named = issubclass(kind, Enum) and value in kind.__members__
        return named or kind in (str, *_CALLABLE) or issubclass(kind, PurePath)
    if isinstance(value, list | tuple):
        return issubclass(kind, Iterable) and not issubclass(kind, str | bytes | Mapping | Enum)
    if isinstance(value, dict):
        return issubclass(kind, Mapping) or is_dataclass(kind)
    return isinstance(value, kind)


def _wants_factory(hint: Any, cls: object) -> bool:
    """Return whether `hint` is a callable that returns objects of this class; jsonargparse writes both alike."""
    for member in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if get_origin(member) is Callable and (signature := get_args(member)):
            return isinstance(cls, type) and isinstance(signature[1], type) and issubclass(cls, signature[1])
    return False
