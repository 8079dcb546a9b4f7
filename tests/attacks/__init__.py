"""What attacks on files share: a canary, values in the place of others, and the check that a command refuses a file."""

import copy
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from commands import SMALL, command

QUICK = [*SMALL, "--trainer.max_epochs", 2, "--trainer.limit_train_batches", 3, "--trainer.limit_val_batches", 1]
QUICK += ["--test_after_fit", "false", "--trainer.num_sanity_val_steps", 0]
CANARY = "canary"  # what an attack that succeeds leaves in the folder of its test
ABSENT = object()


class Canary:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)


def put(contents: Any, path: Sequence[Any], value: Any) -> Any:
    """Return a copy of nested contents with another value at a path of keys; ABSENT removes it."""
    contents = inner = copy.deepcopy(contents)
    for key in path[:-1]:
        inner = inner[key]
    if value is ABSENT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value
    return contents


def save(contents: Any, path: str = "hostile.ckpt") -> str:
    """Save contents as a checkpoint is saved, and return the path."""
    torch.save(contents, path)
    return path


def refused(match: str, *args: object) -> None:
    """Check that a command ends with status 2 and one line, in which `match` is found."""
    ended = command(*args)
    assert ended.code == 2, (args, ended)
    lines = [line for line in ended.errors.splitlines() if "error: " in line]
    assert len(lines) == 1, ended.errors
    assert re.search(match, lines[0]), lines
    assert "Traceback" not in ended.errors
    assert ended.errors.isprintable() or set(ended.errors) - set(filter(str.isprintable, ended.errors)) <= {"\n"}
