"""The bounds of a configuration: of its YAML, its numbers, and the name of its run."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import jsonargparse
import yaml

from spl.cli.configs import FLAGS
from spl.cli.own_classes import check_complete, find_in_current_folder
from spl.errors import InputError
from spl.files.text import check_yaml, read_text
from spl.lightning_api import class_path, other_package, package

_other_model = ContextVar("other_model", default=False)
_LONGEST = 200  # bytes in a part of a name; file systems allow 255, and some are for what is added


@cache
def bound_yaml() -> None:
    """Let the parsers of this process refuse YAML that is too deep or too large, or has numbers of thousands of digits.

    They would hang on a few lines of nested aliases. Paths of Lightning's classes become those of the package of
    Lightning that spl uses, so that a configuration saved with the one can be read with the other.
    """
    load = jsonargparse.get_loader("yaml")

    def load_bounded(text: str) -> Any:
        try:
            check_yaml(text)
            return _drop_classifier_arguments(_translated(load(text)))
        except (ValueError, RecursionError) as error:  # an InputError among them
            raise yaml.YAMLError(f"It cannot be read: {error}.") from error

    jsonargparse.set_loader("yaml", load_bounded, exceptions=(yaml.YAMLError,))


@contextmanager
def other_model() -> Iterator[None]:
    """Leave the arguments of a SparseClassifier out of the configurations that are read: the model is another class."""
    token = _other_model.set(True)
    try:
        yield
    finally:
        _other_model.reset(token)


def _drop_classifier_arguments(read: Any) -> Any:
    """Return a configuration without the arguments of a SparseClassifier if the model is another class."""
    if _other_model.get() and isinstance(read, dict) and isinstance(model := read.get("model"), dict):
        own = {name: value for name, value in model.items() if name in ("class_path", "init_args", "dict_kwargs")}
        return {name: value for name, value in read.items() if name != "model"} | ({"model": own} if own else {})
    return read


def translate_class_paths(args: Any) -> Any:
    """Return the words of a command line with the paths of Lightning's classes in the package that spl uses.

    Example:
        >>> from spl.cli.configuration import translate_class_paths
        >>> "pytorch" in translate_class_paths(["--trainer.logger=lightning.pytorch.loggers.CSVLogger"])[0]
        True
    """
    if not isinstance(args, list):  # a configuration, or none for the command line of the process
        return args
    parts = [str(arg).rpartition("=") for arg in args]
    return [name + equals + class_path(value) for name, equals, value in parts]


def names_module(args: Sequence[str]) -> bool:
    """Return whether a command line, or a configuration in it, names the class of the model itself.

    The model is a SparseClassifier otherwise, and its arguments are the flags of the group model.

    Example:
        >>> from spl.cli.configuration import names_module
        >>> names_module(["fit", "--model", "own.Module"]), names_module(["fit", "--model.network", "own.Net"])
        (True, False)
        >>> names_module(["fit", "--config", "{model: {class_path: own.Module}}"])
        True
    """
    for word, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--model.class_path" or (flag == "--model" and _is_class(value)):
            return True
        if flag in FLAGS and _is_class(_model(value)):
            return True
    return False


def _model(config: str) -> Any:
    """Return the path of the class of the model in a configuration, a file or YAML, or None if it names none."""
    try:
        text = read_text(config) if Path(config).is_file() else config
        check_yaml(text)
        read = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # the parser says why
    model = read.get("model") if isinstance(read, dict) else None
    return model.get("class_path") if isinstance(model, dict) else model


def _is_class(value: Any) -> bool:
    """Return whether `value` is the path of a class or function, not of a file."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"(\w+\.)+\w+", value) is not None
        and not value.endswith((".yaml", ".yml", ".json"))
        and not Path(value).exists()
    )


def check_packages(error: BaseException | None) -> None:
    """Raise an `InputError` if a parser refused a class that lacks a method, or is based on the other Lightning."""
    while error is not None:
        check_complete(str(error))
        for path in re.findall(r"Import path (\S+)\.(\w+) does not correspond to a subclass", str(error)):
            kind = getattr(sys.modules.get(path[0]), path[1], None)
            if isinstance(kind, type) and (other := other_package(kind)):
                raise InputError(
                    f"{'.'.join(path)} is a class of {other}, and this command works with {package()}: base the class "
                    f"on {package()}."
                )
        error = error.__context__ or error.__cause__


def _translated(value: Any) -> Any:
    """Return what was read from YAML with the paths of Lightning's classes in the package that spl uses."""
    if isinstance(value, str):
        find_in_current_folder(value)
        return class_path(value)
    if isinstance(value, dict):
        return {key: _translated(part) for key, part in value.items()}
    return [_translated(part) for part in value] if isinstance(value, list) else value


def check_numbers(value: Any, name: str = "") -> None:
    """Raise an `InputError` for integers beyond the precision of a double: counts made of them overflow 64 bits.

    Example:
        >>> from spl.cli.configuration import check_numbers
        >>> check_numbers({"trainer": {"max_epochs": 10**20}})
        Traceback (most recent call last):
        spl.errors.InputError: trainer.max_epochs is 100000000000000000000, and whole numbers must lie in ...
    """
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            check_numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int) and abs(value) > 2**53:
        text = str(value) if abs(value) < 10**40 else f"a number of {value.bit_length()} bits"
        raise InputError(f"{name} is {text}, and whole numbers must lie in [-2⁵³, 2⁵³]: give a smaller one.")


def check_name(name: str) -> None:
    """Raise an `InputError` for a name of a run whose logs would not be in a folder of their own below the others.

    Example:
        >>> from spl.cli.configuration import check_name
        >>> check_name("reproduction/tanh")
        >>> check_name("../../thesis")
        Traceback (most recent call last):
        spl.errors.InputError: name is '../../thesis', and a run's logs stay in lightning_logs: leave out '..' and ...
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"name is {ascii(name)[:100]}, and a run's logs stay in lightning_logs: leave out '..' and a leading '/'; "
            "--trainer.default_root_dir says where lightning_logs is."
        )
    if not name.isprintable() or any(len(part.encode()) > _LONGEST for part in path.parts):
        raise InputError(
            f"name is {ascii(name)[:100]}, which cannot name a folder: use printable characters, at most {_LONGEST} "
            "bytes of them between two slashes."
        )
