"""The `spl` command, run in the process of the tests, with parsers that are built only once."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from spl import __main__
from spl.cli import fit

# a network and a pruning that take almost no time
SMALL = ["--config", Path(__file__).parents[2] / "configs" / "quickstart.yaml"]
SMALL += ["--model.network.depth", 3, "--model.network.width", 20, "--pruning.isometry", "null", "--pruning.batches", 2]
SMALL += ["--spectrum.examples", 5, "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


class OnceParsed(fit.SplCLI):
    """A CLI that builds its parsers only once: building them takes a second, too long for 500 command lines."""

    _made: tuple | None = None

    def setup_parser(self, *args, **kwargs):
        cls = type(self)
        if cls._made is None:
            super().setup_parser(*args, **kwargs)
            cls._made = (self.parser, self._subcommand_parsers, self._subcommand_method_arguments)
        self.parser, self._subcommand_parsers, self._subcommand_method_arguments = cls._made


@dataclass
class Ended:
    """How a command ended: its exit status and its output."""

    code: int
    output: str
    errors: str


def command(*args: object) -> Ended:
    """Run `spl` with these arguments. An error that it does not catch is raised."""
    output, errors = io.StringIO(), io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        patch.setattr(fit, "SplCLI", OnceParsed)
        try:
            __main__.main([str(arg) for arg in args])
        except SystemExit as stopped:
            code = stopped.code or 0
    return Ended(code, output.getvalue(), errors.getvalue())
