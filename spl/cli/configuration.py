"""The bounds of a configuration: of its YAML, its numbers, and the name of its run."""

from functools import cache
from pathlib import PurePath
from typing import Any

import jsonargparse
import yaml

from spl.errors import InputError
from spl.files.text import check_yaml

_LONGEST = 200  # bytes in a part of a name; file systems allow 255, and some are for what is added


@cache
def bound_yaml() -> None:
    """Let the parsers of this process refuse YAML that is too deep or too large, or has numbers of thousands of digits.

    They would hang on a few lines of nested aliases.
    """
    load = jsonargparse.get_loader("yaml")

    def load_bounded(text: str) -> Any:
        try:
            check_yaml(text)
            return load(text)
        except (ValueError, RecursionError) as error:  # an InputError among them
            raise yaml.YAMLError(f"It cannot be read: {error}.") from error

    jsonargparse.set_loader("yaml", load_bounded, exceptions=(yaml.YAMLError,))


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
