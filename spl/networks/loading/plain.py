"""Plain values, which a file may hold besides tensors, and the classes that they name."""

from types import NoneType

_SCALARS = (bool, int, float, str, NoneType)
_ENTRY = {"class_path", "init_args", "dict_kwargs"}  # the keys that jsonargparse writes for an object
_MOST_VALUES = 10_000  # a limit, because a list may contain itself


class NotAllowedError(Exception):
    """An error for a file that asks for something that no file may ask for; the message names it.

    Example:
        >>> from spl.networks.loading.plain import class_paths
        >>> class_paths({1, 2})
        Traceback (most recent call last):
        spl.networks.loading.plain.NotAllowedError: a value of the type set
    """


def class_paths(value: object) -> list[str]:
    """Return the class paths that a value asks for, after checking that all the rest of it is plain.

    Numbers, strings, booleans, None, and lists, tuples and dictionaries of these are plain. A dictionary with the key
    `class_path` asks for an object of that class. Types are compared exactly, because a subclass could behave
    differently.

    Raises:
        NotAllowedError: a part is not plain, there are more than 10,000 parts, or a class is not asked for in
            jsonargparse's form.

    Example:
        >>> from spl.networks.loading.plain import class_paths
        >>> class_paths({"class_path": "mynet.Net", "init_args": {"depth": 3, "act": {"class_path": "mynet.Act"}}})
        ['mynet.Net', 'mynet.Act']
    """
    found: list[str] = []
    pending = [value]
    for _ in range(_MOST_VALUES):
        if not pending:
            return found
        part = pending.pop()
        if type(part) is dict:
            if any(type(key) not in _SCALARS for key in part):
                raise NotAllowedError("a dictionary whose keys are not plain")
            if "class_path" in part:
                found.append(_class_path(part))
            pending += part.values()
        elif type(part) is list or type(part) is tuple:
            pending += part
        elif type(part) not in _SCALARS:
            raise NotAllowedError(f"a value of the type {type(part).__name__}")
    raise NotAllowedError(f"more than {_MOST_VALUES:,} values")


def quoted(name: str) -> str:
    """Return a name from a file for a message: short, and in ASCII, where look-alike letters differ.

    Example:
        >>> from spl.networks.loading.plain import quoted
        >>> print(quoted("spl.networks.\uff2dLP"))
        'spl.networks.\uff2dLP'
    """
    return ascii(name if len(name) <= 100 else f"{name[:100]}…")


def _class_path(entry: dict[str, object]) -> str:
    name = entry["class_path"]
    if type(name) is not str:
        raise NotAllowedError(f"a class_path of the type {type(name).__name__}")
    if unknown := entry.keys() - _ENTRY:
        raise NotAllowedError(f"{quoted(name)} with {', '.join(sorted(quoted(str(key)) for key in unknown))}")
    for arguments in (entry.get("init_args", {}), entry.get("dict_kwargs", {})):
        if type(arguments) is not dict or any(type(key) is not str for key in arguments):
            raise NotAllowedError(f"{quoted(name)} with arguments that are not a dictionary by name")
    return name
