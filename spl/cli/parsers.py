"""The parsers of the command line: errors of one line, flags in full, and help without hundreds of classes."""

import argparse
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from spl.cli.jsonargparse_private import listed_classes
from spl.cli.mistakes import explained


class HelpFormatter(DefaultHelpFormatter):
    """A help formatter that lists the classes of an argument by their short names, and only those of use."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, found, _ = super()._get_help_string(action).partition(", known subclasses: ")
        if not found:
            return text
        names = [path.rpartition(".")[2] for path in listed_classes(getattr(action, "_typehint", None))]
        return f"{text}, classes: {', '.join(names)})" if names else f"{text})"


class OneLineErrors(ArgumentParser):
    """A parser whose errors are one line on stderr, which says what was meant; the exit status is 2.

    Flags are not abbreviated: a flag that becomes ambiguous in a later version would break a script.

    Example:
        >>> from contextlib import redirect_stderr
        >>> from spl.cli.parsers import OneLineErrors
        >>> parser = OneLineErrors(prog="spl test")
        >>> _ = parser.add_argument("--sparsity", type=float)
        >>> with redirect_stderr(sys.stdout):
        ...     try:
        ...         parser.parse_args(["--sparsty", "0.9"])
        ...     except SystemExit as ended:
        ...         print(ended.code)
        spl: error: --sparsty is not a flag of spl test: did you mean --sparsity?
        2
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **options | {"allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and exit with status 2; a parser inside of another one raises the error."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"spl: error: {explained(self, message)}", file=sys.stderr)
        self.exit(2)
