"""The record of a run: choices in words and numbers, for YAML and checkpoints."""

from typing import Any


def described(role: str, choice: object) -> dict[str, Any]:
    """The class of `choice` under its role, and its attributes under `role`_args; private ones are left out."""
    return {role: type(choice).__name__, f"{role}_args": {n: _plain(v) for n, v in vars(choice).items() if n[0] != "_"}}


def _plain(value: object) -> Any:
    """Numbers, words, and lists and mappings of them; any other object as a choice within a choice, or as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return described("class", value) if hasattr(value, "__dict__") else str(value)
