"""Execute runs: make the missing ones, and report the ones that failed."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from tqdm import tqdm

from spl.cli.configuration import bound_yaml
from spl.lightning_api import LightningDataModule
from spl.reproduction.cost import seconds
from spl.reproduction.deadline import Deadline, skipped
from spl.reproduction.executors import Executor
from spl.reproduction.job import Group, Job, batches, plan_run, waves
from spl.reproduction.results import Results
from spl.reproduction.run import Run, with_ancestors


@dataclass(frozen=True)
class Failure:
    """A run that left no result.

    Attributes:
        run: the run.
        log: the output of its process; None if it was not tried because the run that it starts from failed.
    """

    run: Run
    log: Path | None


def missing(runs: Iterable[Run], results: Results) -> list[Run]:
    """Return the unfinished runs among `runs` and the runs that they start from, each once.

    A finished run without its weights, such as one from an archive, is made again if an unfinished run starts from it.
    """
    planned = with_ancestors(runs)
    unfinished, starts = set(), set()
    for digest, run in reversed(planned.items()):  # each run comes before those that it starts from
        if digest not in results or (digest in starts and not results.has_weights(digest)):
            unfinished.add(digest)
            starts |= {before.digest for before in run.before}
    return [run for digest, run in planned.items() if digest in unfinished]


def execute(
    runs: Sequence[Run], root: Path, data_root: Path | None, executor: Executor, until: float | None = None
) -> list[Failure]:
    """Make those of `runs` that are not finished, and return the failures.

    Args:
        runs: the runs that are wanted.
        root: the folder of all runs, such as `lightning_logs/reproduction`.
        data_root: the folder of the data sets; None for what the configurations of the runs say.
        executor: the executor of the processes.
        until: the time, in seconds since the epoch, before which runs should end; others do not begin, and are no
            failures. None for no limit.

    Raises:
        InputError: a data set is missing and cannot be downloaded.
    """
    failures: list[Failure] = []
    wanted = missing(runs, Results(root))
    if not wanted:
        return failures
    for data in dict.fromkeys(json.dumps(data, sort_keys=True) for run in wanted for data in run.data(data_root)):
        _prepare_data(json.loads(data))
    folder = _new_folder(root / "jobs")
    deadline = None if until is None else Deadline(until, str(folder))
    numbers = count()
    every = 1 if sys.stderr.isatty() else 60  # seconds; a log does not need more
    with tqdm(total=len(wanted), desc="Runs", unit="run", mininterval=every) as bar:
        progress = _Progress(bar, {run.digest: seconds(run, executor.sharing) for run in wanted})
        for wave in waves(wanted):
            results = Results(root)
            ready = [run for run in wave if all(results.has_weights(before.digest) for before in run.before)]
            failed = {failure.run.digest for failure in failures}
            failures += [Failure(run, None) for run in wave if any(b.digest in failed for b in run.before)]
            jobs = [
                Job(
                    f"{next(numbers):03}",
                    [_group(*some, results, data_root, executor.sharing) for some in batch],
                    deadline,
                )
                for batch in batches(ready, executor.count)
            ]
            if any(job.has_time() for job in jobs):
                files = {job.write(folder): job for job in jobs}
                for _ in executor.run(list(files)):
                    progress.update(folder)
                failures += _failures(files, wanted, Results(root))
    with suppress(OSError):
        folder.rmdir()  # which is empty if there was no time for any run
    return failures


def _group(together: bool, runs: Sequence[Run], results: Results, data_root: Path | None, sharing: int) -> Group:
    return Group([plan_run(run, results, data_root, sharing) for run in runs], together)


def _prepare_data(data: dict[str, Any]) -> None:
    """Download a data set if it is missing, and check it: once, and not in every process."""
    bound_yaml()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    module: LightningDataModule = parser.instantiate(parser.parse_object({"data": data})).data
    module.prepare_data()
    module.setup("fit")


def _failures(files: Mapping[Path, Job], runs: Iterable[Run], results: Results) -> list[Failure]:
    """Return the failures among the runs of jobs that have ended.

    Args:
        files: the jobs, by their files.
        runs: these runs and those that start from them.
        results: the finished runs.
    """
    by_digest = {run.digest: run for run in runs}
    starts = {before.digest for run in by_digest.values() for before in run.before}
    return [
        Failure(by_digest[digest], file.with_suffix(".log"))
        for file, job in files.items()
        for digest in job.digests
        if not (results.has_weights(digest) if digest in starts else digest in results) and digest not in skipped(file)
    ]


def _new_folder(root: Path) -> Path:
    """Make a folder that is named by the time, and by a number where a clock that went back names one again."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in chain([stamp], (f"{stamp}-{number}" for number in count(2))):
        with suppress(FileExistsError):
            (root / name).mkdir(parents=True)
            return root / name
    raise AssertionError("there is always another number")


class _Progress:
    """The progress bar over the runs, with the time left: the work left at the pace of the work done."""

    def __init__(self, bar: "tqdm[NoReturn]", seconds: dict[str, float]) -> None:
        self.bar = bar
        self.seconds = seconds
        self.done: set[str] = set()
        self.start = time.monotonic()

    def update(self, folder: Path) -> None:
        """Count the runs that the jobs in `folder` have finished since the last update."""
        files = [file for file in folder.glob("*.done") if file.is_file()]
        lines = {line for file in files for line in file.read_text(errors="replace").split()}
        new = (lines & self.seconds.keys()) - self.done
        if new:
            self.done |= new
            worked = sum(self.seconds[digest] for digest in self.done)
            pace = (time.monotonic() - self.start) / worked
            left = max(0.0, pace * (sum(self.seconds.values()) - worked))
            self.bar.set_postfix_str(f"about {duration(left)} left", refresh=False)
            self.bar.update(len(new))


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
