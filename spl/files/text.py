"""Functions that read text, YAML and JSON as data, and refuse what would take endless time or memory."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from spl.errors import InputError, first_line

_MOST_BYTES = 64 * 2**20
_MOST_VALUES = 100_000  # with each alias counted as what it stands for
_DEEPEST = 100


def read_text(path: str | Path, most: int = _MOST_BYTES) -> str:
    """Return the text of a file.

    Args:
        path: the file to read.
        most: the number of bytes beyond which the file is refused.

    Raises:
        InputError: it is no regular file, cannot be read, has more than `most` bytes, or is not in UTF-8.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from spl.files import read_text, write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "notes.txt"), b"sparse")
        ...     read_text(Path(folder, "notes.txt"))
        'sparse'
    """
    try:
        if not Path(path).is_file():  # a pipe or a device may have no end
            raise InputError(f"There is no file {path}: give the path of one.")
        with Path(path).open("rb") as stream:
            large = os.fstat(stream.fileno()).st_size > most
            data = b"" if large else stream.read(most + 1)  # files of /proc do not tell their size
        if large or len(data) > most:
            raise InputError(f"{path} has more than {most:,} bytes, so it is not what it should be: give another one.")
        return data.decode()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({first_line(error)}): give another one.") from error


def read_yaml(path: str | Path) -> Any:
    """Return what is in a YAML file: numbers, words, and lists and mappings of them.

    Raises:
        InputError: the file cannot be read, is not YAML, has tags, or has too many values; see `check_yaml`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from spl.files import read_yaml, write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "run.yaml"), b"trainer: {max_epochs: 3}")
        ...     read_yaml(Path(folder, "run.yaml"))
        {'trainer': {'max_epochs': 3}}
    """
    text = read_text(path)
    try:
        check_yaml(text)
        return yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as YAML ({_line(error)}): give another one.") from error


def check_yaml(text: str) -> None:
    """Raise an error if a YAML document would be too large or too deep once its aliases are replaced.

    Nine lists of nine aliases each take a few hundred bytes and stand for 387,420,489 values.

    Raises:
        InputError: there are more than 100,000 values, or more than 100 levels, or an alias is inside of what it
            stands for.
        yaml.YAMLError: the text is not YAML.

    Example:
        >>> from spl.files.text import check_yaml
        >>> check_yaml("layers: &layers [fc1, fc2]\\nexclude: *layers")
        >>> check_yaml("layers: &layers [fc1, *layers]")
        Traceback (most recent call last):
        spl.errors.InputError: the alias layers is not defined before it is used
    """
    sizes: dict[str, int] = {}
    open_collections: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, 1))
            if len(open_collections) > _DEEPEST:
                raise InputError(f"it has more than {_DEEPEST} levels")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise InputError(f"the alias {event.anchor} is not defined before it is used")
            size = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = _note(sizes, event.anchor, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = _note(sizes, *open_collections.pop())
        else:
            continue
        anchor, before = open_collections[-1]
        open_collections[-1] = (anchor, before + size)
        if before + size > _MOST_VALUES:
            raise InputError(f"it has more than {_MOST_VALUES:,} values")


def _note(sizes: dict[str, int], anchor: str | None, size: int) -> int:
    if anchor is not None:
        sizes[anchor] = size
    return size


def read_json(path: str | Path) -> Any:
    """Return what is in a JSON file.

    Raises:
        InputError: the file cannot be read or is not JSON.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from spl.files import read_json, write_whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "result.json"), b'{"accuracy": 0.9}')
        ...     read_json(Path(folder, "result.json"))
        {'accuracy': 0.9}
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({_line(error)}): give another one.") from error


def _line(error: BaseException) -> str:
    """Return the message of an error in one line; YAML's names the place in lines of its own."""
    return " ".join(str(error).split())[:300] or type(error).__name__
