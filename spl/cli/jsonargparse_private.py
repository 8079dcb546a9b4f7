"""The private functions of jsonargparse that spl uses or replaces."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, _typehints
from jsonargparse._util import get_import_path, import_object

_FIRST = ("spl.", "torch.", "pytorch_lightning.", "lightning.")  # whose classes a short name means before others
_CHOICES = {f"spl.{name}" for name in ("criteria", "data", "initializers", "isometry", "networks")}
_CHOICES |= {"spl.criteria.schedules", "spl.pruning.patterns", "spl.pruning.scopes"}
_MOST = 60  # classes of other packages that are listed


def known_classes(hint: Any) -> list[str]:
    """Return the paths of the classes that an argument with the type `hint` may name, as far as they are imported.

    Example:
        >>> from spl import criteria
        >>> from spl.cli.jsonargparse_private import known_classes
        >>> "spl.criteria.SynFlow" in known_classes(criteria.Criterion)
        True
    """
    with _replaced(_typehints, "get_import_path", _import_path):
        return list(_typehints.get_all_subclass_paths(hint))


def listed_classes(hint: Any) -> list[str]:
    """Return the paths of the classes to offer for an argument: those of spl, or the others if these are few.

    Every module of torch is a network to jsonargparse, and hundreds of them are none to a user.

    Example:
        >>> from torch import nn
        >>> from spl import networks
        >>> from spl.cli.jsonargparse_private import listed_classes
        >>> "spl.networks.MLP" in listed_classes(nn.Module), "torch.nn.ReLU" in listed_classes(nn.Module)
        (True, False)
    """
    paths = known_classes(hint)
    chosen = [path for path in paths if path.rpartition(".")[0] in _CHOICES] or paths
    return chosen if len(chosen) <= _MOST else []


def type_hint(parser: ArgumentParser, key: str) -> Any:
    """Return the type of the argument `key` of a parser, or None if it has none.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> from spl.cli.jsonargparse_private import type_hint
        >>> parser = ArgumentParser()
        >>> _ = parser.add_argument("--rounds", type=int | None)
        >>> type_hint(parser, "rounds")
        int | None
    """
    return next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == key), None)


def flags(parser: ArgumentParser) -> list[str]:
    """Return the flags of a parser, such as --name, without those for the help about a class.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> from spl.cli.jsonargparse_private import flags
        >>> flags(ArgumentParser())
        ['--help']
    """
    return [f for f in parser._option_string_actions if f.startswith("--") and not f.endswith((".help", "+"))]


def subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """Return the parsers of the subcommands by name.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> from spl.cli.jsonargparse_private import subparsers
        >>> subparsers(ArgumentParser())
        {}
    """
    action = parser._subcommands_action
    return dict(action.choices) if action is not None else {}


@contextmanager
def spl_parsing_rules() -> Iterator[list[tuple[str, str]]]:
    """Parse by three rules of spl, and yield a list to which each change of a class is added, as the old and new paths.

    No package is imported to list the classes that an argument may name. A short name that several packages have, such
    as ResNet or SGD, is that of spl's class, or else of torch's or Lightning's. And an argument that names another
    class than before starts from the defaults of that class; jsonargparse keeps those arguments of the old class that
    the new one has too.
    """
    changes: list[tuple[str, str]] = []
    resolve = _typehints.resolve_class_path_by_name

    def known_first(kind: Any, name: str) -> str:
        if "." not in name:
            paths = [path for path in known_classes(kind) if path.endswith(f".{name}")]
            for package in _FIRST:
                found = [path for path in paths if path.startswith(package)]
                if len(found) == 1:
                    return found[0]
        return str(resolve(kind, name))

    def start_from_defaults(_: Any, before: Any, value: Any) -> None:
        if before and before.get("init_args") and not _is_same(before["class_path"], value["class_path"]):
            changes.append((before["class_path"], value["class_path"]))
            for name in list(before["init_args"].keys()):
                before["init_args"].pop(name, None)

    with (
        _replaced(_typehints, "get_import_path", _import_path),
        _replaced(_typehints, "resolve_class_path_by_name", known_first),
        _replaced(_typehints, "discard_init_args_on_class_path_change", start_from_defaults),
    ):
        yield changes


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """Return a script by which a shell completes the command of a parser. The parser can parse nothing afterwards.

    Raises:
        ValueError: shtab is not installed, or does not know the shell.
    """
    for part in (parser, *subparsers(parser).values()):
        for action in part._actions:
            hint = getattr(action, "_typehint", None)
            if action.choices is None and known_classes(hint):  # jsonargparse would follow the arguments of classes
                action.choices = [path.rpartition(".")[2] for path in listed_classes(hint)] or ["null"]
    return parser.get_completion_script(f"shtab-{shell}")


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _import_path(value: Any) -> str | None:
    """Return the shortest path of a class, or that of its module if a package around it is not imported.

    jsonargparse imports the packages around each class that it lists. One that failed before would fail again here,
    with an error about a class that nobody named.
    """
    packages = str(getattr(value, "__module__", "")).split(".")
    around = [".".join(packages[: i + 1]) for i in range(len(packages))]
    if isinstance(value, type) and not all(name in sys.modules for name in around):
        return f"{value.__module__}.{value.__qualname__}"
    path: str | None = get_import_path(value)
    return path


def _is_same(one: str | None, other: str | None) -> bool:
    if one == other or one is None or other is None:
        return one == other
    find: Callable[[str], Any] = import_object
    try:
        return find(one) is find(other)
    except (ImportError, AttributeError, ValueError):
        return False
