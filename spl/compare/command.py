"""The command `spl compare`, which compares pruning methods on one network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from spl.compare.comparison import RUNS, Comparison, Measured
from spl.compare.naming import method_named
from spl.compare.report import write_report
from spl.errors import InputError
from spl.reproduction.execution import execute, missing
from spl.reproduction.executors import LocalProcesses
from spl.reproduction.results import Results
from spl.reproduction.session import alone, failure_report, forecast, stoppable

_DESCRIPTION = """\
Compare pruning methods on one network: make a run of `spl fit` for each method, sparsity and seed, and write tables,
numbers and figures. Finished runs are never made again; after an interruption the same command continues. Network,
data, schedule and all else come from the flags of `spl fit`, --config among them.
"""
_METHODS = """\
NAME[+CORRECTION][@SCOPE], or dense: SNIP, CS+AI, Random@ERK. NAME is the class of a criterion, or CS for
ConnectionSensitivity; alone it is the published method without a correction. CORRECTION is AI (ApproximateIsometry),
EOI or another class of spl.isometry, SCOPE a class of spl.pruning.scopes. SET, RigL and GMP move masks in training;
LTH, LTH-late, LRR, LTH-shuffled and LTH-reinit are lottery tickets. Own classes are given by their paths (own.Mine).
Arguments that the configuration has for one of these classes are kept.
"""
_EXAMPLE = """\
example:
  spl compare --config quickstart --methods SNIP SynFlow CS+AI dense --sparsity 0.9 0.95 0.98 --seeds 3
"""


def compare(
    flags: Sequence[str],
    methods: Sequence[str],
    sparsities: Sequence[float] = (),
    seeds: int = 3,
    jobs: int | None = None,
    output: Path | None = None,
    dry_run: bool = False,
    words: Sequence[str] = (),
) -> None:
    """Compare methods: make the runs that are missing, then write the page.

    Args:
        flags: flags of `spl fit`, which say all that the runs have in common.
        methods: the names of the methods; see `method_named`.
        sparsities: the sparsities; empty for that of the configuration.
        seeds: the number of runs of each method and sparsity.
        jobs: the number of processes at a time; None for one per accelerator or, without accelerators, one per core.
        output: the folder of the page; None for comparison/NAME.
        dry_run: list the missing runs and the time that they would take.
        words: the command line, which the page repeats.
    """
    comparison = Comparison.of(flags, [method_named(name) for name in methods], sparsities, seeds)
    executor, runs = LocalProcesses(jobs), comparison.all_runs
    if dry_run:
        print(forecast(missing(runs, Results(RUNS)), executor.count))
        return
    folder = Path("comparison", comparison.name) if output is None else output
    with alone(RUNS, "spl compare"):
        failures = execute(runs, RUNS, None, executor)
        write_report(Measured(comparison, Results(RUNS)), folder, words, failures)
    print(f"Tables, figures and numbers: {folder / 'README.md'}")
    if failures:
        print(failure_report(failures), file=sys.stderr)
        sys.exit(1)


class _Parser(argparse.ArgumentParser):
    """A parser that takes the words it knows and leaves the flags of `spl fit`; its errors are `InputError`s."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}. `spl compare --help` explains the flags.")


def compare_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags of `spl compare` itself.

    Example:
        >>> from spl.compare.command import compare_parser
        >>> compare_parser().parse_known_args(["--methods", "SNIP", "dense", "--name", "mine"])[1]
        ['--name', 'mine']
    """
    parser = _Parser(
        prog="spl compare",
        usage="spl compare --config FILE --methods METHOD ... [--sparsity S ...] [--seeds N] [flags of spl fit]",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--methods", nargs="+", required=True, metavar="METHOD", help=_METHODS.replace("\n", " "))
    parser.add_argument(
        "--sparsity", nargs="+", type=float, default=(), metavar="S", help="in [0, 1); default: that of the config"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each method and sparsity, with seeds from "
        "seed_everything of the config on, or else from 0 (default: 3)",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes at a time; default: one per GPU or core")
    parser.add_argument(
        "--output", type=Path, help="folder of the page; default: comparison/NAME, by the config's name"
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="list the missing runs and their time")
    return parser


def compare_command(args: Sequence[str]) -> None:
    """Run the command line `args` of `spl compare`."""
    with stoppable():
        chosen, flags = compare_parser().parse_known_args(list(args))
        compare(flags, chosen.methods, chosen.sparsity, chosen.seeds, chosen.jobs, chosen.output, chosen.dry_run, args)
