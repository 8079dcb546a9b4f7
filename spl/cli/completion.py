"""The flag `spl --print_completion SHELL`, which prints a script by which a shell completes commands and flags."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from spl.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_SHELLS = ("bash", "zsh", "tcsh")


def print_script(
    args: Sequence[str], commands: Mapping[str, str], others: Mapping[str, Callable[[], "ArgumentParser"]]
) -> None:
    """Print the script of the shell that `args` name.

    Args:
        args: the words after the flag: bash, zsh or tcsh.
        commands: what each command does, by name.
        others: what makes the parsers of commands outside of spl.cli, by name.

    Raises:
        InputError: there is no such shell, or shtab is not installed.
    """
    shell = args[0].removeprefix("shtab-") if args else ""  # as jsonargparse calls them
    if shell not in _SHELLS or args[1:]:
        raise InputError(f"--print_completion takes one of {', '.join(_SHELLS)}, got {' '.join(args) or 'nothing'}.")
    if find_spec("shtab") is None:
        raise InputError("Completion needs shtab: pip install shtab, or pip install 'spl-lightning[completion]'.")
    sys.stdout.write(script(shell, commands, others))


def script(shell: str, commands: Mapping[str, str], others: Mapping[str, Callable[[], "ArgumentParser"]]) -> str:
    """Return the script by which a shell completes `spl`.

    Args:
        shell: bash, zsh or tcsh.
        commands: what each command does, by name; all of them are completed.
        others: what makes the parsers of commands outside of spl.cli, by name.
    """
    from spl.cli.export import parsers
    from spl.cli.fit import parsers_of_fit
    from spl.cli.jsonargparse_private import completion_script
    from spl.cli.parsers import OneLineErrors

    found = {**parsers_of_fit(), **parsers(), **{name: parser() for name, parser in others.items()}}
    found = copy.deepcopy(found)  # they are not of use afterwards, and those of fit are kept in the process
    whole = OneLineErrors(prog="spl")
    subcommands = whole.add_subcommands()
    for name, purpose in commands.items():
        subcommands.add_subcommand(name, found.get(name) or OneLineErrors(), help=purpose)
    return completion_script(whole, shell)
