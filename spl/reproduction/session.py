"""What commands that make many runs have in common: their lock, executor, forecast, and how they stop."""

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tabulate import tabulate

from spl.errors import InputError
from spl.reproduction.cost import seconds
from spl.reproduction.execution import Failure, duration
from spl.reproduction.executors import Cluster, Executor, LocalProcesses
from spl.reproduction.run import Run


@contextmanager
def alone(root: Path, command: str) -> Iterator[None]:
    """Let no other process make the same runs; the lock goes with its process, however that ends.

    Args:
        root: the folder of the runs.
        command: the command that makes runs there, for the message.

    Raises:
        InputError: another process has the lock.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise InputError(
            f"Another `{command}` is making runs in {root}: wait until it has ended, or start this one in another "
            "folder. --dry-run works beside it."
        ) from error


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the jobs, also in the background, where SIGINT would be ignored; exit with 130."""
    handlers = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        print("\nInterrupted. Finished runs are kept; the same command continues.", file=sys.stderr)
        sys.exit(130)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def chosen_executor(root: Path, jobs: int | None, cluster: str | None, parameters: Mapping[str, Any]) -> Executor:
    """Return the executor that a command line asks for.

    Args:
        root: the folder of the runs.
        jobs: the number of processes of this machine; None for the default.
        cluster: slurm or local; None for processes of this machine.
        parameters: options that submitit passes to the scheduler.

    Raises:
        InputError: a cluster and a number of processes are given, or the cluster cannot be used.
    """
    if cluster is None:
        return LocalProcesses(jobs)
    if jobs is not None:
        raise InputError(
            "--jobs counts processes of this machine: for a cluster, use "
            f"--cluster_parameters '{{slurm_array_parallelism: {jobs}}}' instead."
        )
    return Cluster(cluster, root / "jobs" / "submitit", parameters)


def forecast(runs: Sequence[Run], processes: int, sharing: int = 1) -> str:
    """Return a table of the missing runs and how long they will take.

    Args:
        runs: the missing runs.
        processes: the number of processes at a time.
        sharing: the number of processes that share an accelerator.
    """
    rows = [(run.name, f"{run.steps:,}", duration(seconds(run, sharing))) for run in runs]
    total = sum(seconds(run, sharing) for run in runs) / processes
    table = tabulate(rows, ["run", "iterations", "time"], disable_numparse=True, colalign=("left", "right", "right"))
    return f"{table}\n\n{len(runs)} runs are missing: about {duration(total)} with {processes} processes."


def failure_report(failures: Sequence[Failure]) -> str:
    """Return what failed, and where to read why."""
    lines = [f"spl: {len(failures)} runs failed; the pages do not include them. The same command tries them again."]
    for failure in failures:
        if failure.log is None:
            lines.append(f"  {failure.run.name}: not tried, because the run that it starts from failed")
        else:
            lines.append(f"  {failure.run.name}: {failure.log}")
    return "\n".join(lines)
