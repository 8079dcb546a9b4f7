"""The reading of what finished runs have left, in which anything may be damaged."""

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from spl.errors import InputError
from spl.files import read_json

_KINDS = {"digest": str, "test": dict, "scalars": dict, "record": dict}
_NUMBERS = ("seconds", "threads", "population")  # in the record


def read_result(file: Path) -> dict[str, Any]:
    """Return the contents of a result.json.

    Raises:
        InputError: it cannot be read, or is not one that a run has written.
    """
    content = read_json(file)
    if not isinstance(content, dict) or content.keys() != _KINDS.keys():
        raise InputError(f"{file} is no result: it does not have {', '.join(_KINDS)} alone.")
    faults = [key for key, kind in _KINDS.items() if not isinstance(content[key], kind)]
    if not faults:
        faults += [which for which, metrics in content["test"].items() if not _are_metrics(metrics)]
        faults += [tag for tag, pairs in content["scalars"].items() if not _are_pairs(pairs)]
        faults += [key for key in _NUMBERS if not _is_number(content["record"].get(key, 0))]
        faults += [] if isinstance(content["record"].get("device", ""), str) else ["device"]
        faults += ["versions"] if not isinstance(content["record"].get("versions", {}), dict) else []
    if faults:
        raise InputError(f"{file} is no result: {', '.join(map(ascii, faults[:3]))} cannot be what it is.")
    return content


@cache
def say_unfinished(folder: Path, error: str) -> None:
    """Print once in a process that a run counts as unfinished, and why."""
    print(f"spl: {folder} counts as unfinished: {_line(error)}", file=sys.stderr)


@cache
def say_unreadable(folder: Path, error: str) -> None:
    """Print once in a process that the events of a run are left out, and why."""
    print(f"spl: the events in {folder} are left out: {_line(error)}", file=sys.stderr)


def _line(text: str) -> str:
    return ascii(" ".join(text.split())[:300])[1:-1]


def _are_metrics(metrics: Any) -> bool:
    return isinstance(metrics, dict) and {"accuracy", "loss"} <= metrics.keys() and _are_numbers(metrics.values())


def _are_pairs(pairs: Any) -> bool:
    """Return whether these are [step, value] of one scalar."""
    if not isinstance(pairs, list):
        return False
    return all(isinstance(pair, list) and len(pair) == 2 and _are_numbers(pair) for pair in pairs)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
