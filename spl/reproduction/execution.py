"""Execution: make what is missing, report what failed."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import instantiate_class
from tqdm import tqdm

from spl.reproduction.cost import seconds
from spl.reproduction.executors import Executor
from spl.reproduction.job import Group, Job, batches, plan_run, waves
from spl.reproduction.results import Results
from spl.reproduction.run import Run, with_ancestors


@dataclass(frozen=True)
class Failure:
    """A run that left no result.

    Attributes:
        run: the run.
        log: the output of its process; None where it was not tried, because a run that it starts from failed.
    """

    run: Run
    log: Path | None


def missing(runs: Iterable[Run], results: Results) -> list[Run]:
    """Those of `runs`, and of the runs that they start from, that are not finished; each once."""
    return [run for digest, run in with_ancestors(runs).items() if digest not in results]


def execute(runs: Sequence[Run], root: Path, data_root: Path, executor: Executor) -> list[Failure]:
    """Make those of `runs` that are not finished below `root`; those that failed.

    Args:
        runs: what is wanted.
        root: where runs lie, `lightning_logs/reproduction`.
        data_root: where the data sets lie.
        executor: where the processes run.

    Raises:
        InputError: a data set is neither there nor to be had.
    """
    failures = []
    wanted = missing(runs, Results(root))
    for data in sorted(set[str]().union(*(run.data for run in wanted))):
        _prepare_data(data, data_root)
    every = 1 if sys.stderr.isatty() else 60  # seconds; a log is spared most of it
    with tqdm(total=len(wanted), desc="Runs", unit="run", mininterval=every) as bar:
        progress = _Progress(bar, {run.digest: seconds(run) for run in wanted})
        for wave in waves(wanted):
            results = Results(root)
            ready = [run for run in wave if run.pretrained is None or run.pretrained.digest in results]
            failures += [Failure(run, None) for run in wave if run not in ready]
            failures += _make_wave(ready, results, root, data_root, executor, progress)
    return failures


def _prepare_data(data: str, root: Path) -> None:
    """Download a data set, if need be, and check it: once, and not in every process."""
    module: LightningDataModule = instantiate_class((), {"class_path": data, "init_args": {"root": root}})
    module.prepare_data()
    module.setup("fit")


def _make_wave(
    runs: Sequence[Run], results: Results, root: Path, data_root: Path, executor: Executor, progress: "_Progress"
) -> list[Failure]:
    """Make runs none of which starts from another."""
    folder = root / "jobs" / time.strftime("%Y%m%d-%H%M%S")
    logs: dict[Path, list[Run]] = {}
    if runs:
        folder.mkdir(parents=True)
    for number, batch in enumerate(batches(runs)):
        groups = [Group([plan_run(run, results, data_root) for run in some], together) for together, some in batch]
        logs[Job(f"{number:03}", groups).write(folder)] = [run for _, some in batch for run in some]
    for _ in executor.run(list(logs)):
        progress.update(folder)
    finished = Results(root)
    return [
        Failure(run, file.with_suffix(".log"))
        for file, some in logs.items()
        for run in some
        if run.digest not in finished
    ]


class _Progress:
    """The bar over runs, and the time left: what is left to do, at the pace of what is done."""

    def __init__(self, bar: "tqdm[NoReturn]", seconds: dict[str, float]) -> None:
        self.bar = bar
        self.seconds = seconds
        self.done: set[str] = set()
        self.start = time.monotonic()

    def update(self, folder: Path) -> None:
        """Count the runs that the jobs in `folder` have finished since."""
        lines = {line for file in folder.glob("*.done") for line in file.read_text().split()}
        new = lines - self.done
        if new:
            self.done |= new
            did = sum(self.seconds[digest] for digest in self.done)
            pace = (time.monotonic() - self.start) / did
            left = max(0.0, pace * (sum(self.seconds.values()) - did))
            self.bar.set_postfix_str(f"about {duration(left)} left", refresh=False)
            self.bar.update(len(new))


def duration(seconds: float) -> str:
    """In words: 40 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
