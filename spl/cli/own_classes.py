"""Classes of the user: modules in the current folder are found, and classes that lack a method are named."""

import inspect
import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

from spl.errors import InputError

_started_in: Path | None = None


def start_in_current_folder() -> None:
    """Note the current folder for `find_in_current_folder`: parsers change to the folders of files that they read."""
    global _started_in
    _started_in = Path.cwd()


def find_in_current_folder(name: str) -> None:
    """Let Python import from the current folder if `name` is the path of a class or function in a module there.

    The folder comes last, so that it shadows no module of Python or of an installed package. As long as nobody names a
    class in it, nothing in it can be imported, such as a file that has the name of a package that is not installed.

    Args:
        name: any text of a command line or of a configuration, such as own.Net. Other texts change nothing.

    Example:
        >>> import sys
        >>> from spl.cli.own_classes import find_in_current_folder
        >>> before = list(sys.path)
        >>> find_in_current_folder("torch.optim.SGD")  # is found without the folder
        >>> sys.path == before
        True
    """
    folder = str(_started_in or Path.cwd())
    if folder in sys.path or not re.fullmatch(r"([^\W\d]\w*\.)+[^\W\d]\w*", name):
        return
    module = name.partition(".")[0]
    if module in sys.modules or find_spec(module) is not None or os.path.exists(os.path.join(folder, name)):
        return  # it is found without the folder, or is the name of a file
    if PathFinder.find_spec(module, [folder]) is not None:
        sys.path.append(folder)


def check_complete(refusal: str) -> None:
    """Raise an `InputError` that names the missing methods if a parser refused a class because it is abstract.

    Args:
        refusal: the message of the parser.

    Example:
        >>> from spl.cli.own_classes import check_complete
        >>> check_complete("Expected an instantiatable class, but collections.abc.Sized is abstract")
        Traceback (most recent call last):
        spl.errors.InputError: collections.abc.Sized lacks a method. Define __len__(self)...
    """
    for path in re.findall(r"Expected an instantiatable class, but ((?:\w+\.)+\w+) is abstract", refusal):
        if path.startswith("spl."):  # a base class, where no class was named
            continue
        kind = resolve_name(path)
        missing = [
            f"{name}{inspect.signature(method)}: {inspect.getdoc(method) or ''}".splitlines()[0]
            for name in sorted(kind.__abstractmethods__)
            if (method := getattr(kind, name))
        ]
        raise InputError(f"{path} lacks a method. Define {'; '.join(missing)}")
