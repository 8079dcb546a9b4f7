"""The `spl` command, run in the process of the tests."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from spl import __main__

# a network and a pruning that take almost no time
SMALL = ["--config", Path(__file__).parents[2] / "configs" / "quickstart.yaml"]
SMALL += ["--model.network.depth", 3, "--model.network.width", 20, "--pruning.isometry", "null", "--pruning.batches", 2]
SMALL += ["--spectrum.examples", 5, "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


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
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            __main__.main([str(arg) for arg in args])
        except SystemExit as stopped:
            code = stopped.code or 0
    return Ended(code, output.getvalue(), errors.getvalue())
