"""Jobs: the runs that one process makes, one after the other, some of them stacked."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spl.files import write_whole
from spl.reproduction.cost import seconds
from spl.reproduction.deadline import Cost, Deadline
from spl.reproduction.results import Results
from spl.reproduction.run import CHECKPOINT, Run
from spl.reproduction.stacked import can_be_stacked

_MIN_JOB_SECONDS = 60.0  # a shorter job is not worth the start of a process,
_LEAST_JOB_SECONDS = 10.0  # unless another process would have nothing to do; but a start takes seconds itself
_MAX_STACKED = 16  # the most networks that train together
_MIN_STACKED = 4  # and the fewest: from here on stacking is faster than training one by one, on a CPU too

_STACKED_TRAINER = {
    "max_steps", "max_epochs", "accelerator", "devices", "log_every_n_steps", "limit_train_batches",
    "limit_val_batches", "limit_test_batches", "num_sanity_val_steps", "val_check_interval", "check_val_every_n_epoch",
    "enable_model_summary", "enable_progress_bar",
}  # fmt: skip
"""The options of a Trainer with which networks can train together."""
_OWN = {"initializer", "num_classes"}  # options of a model in which networks that train together may differ
_STACKED_MODEL = {"network", "optimizer", "lr_scheduler", "lr_interval"} | _OWN
_DATA = "spl.data."

Batch = tuple[bool, list[Run]]
"""Whether runs train together, and the runs; a run that does not is alone in its batch."""


@dataclass(frozen=True)
class PlannedRun:
    """A run as its process needs it.

    Attributes:
        digest: the digest of the run.
        config: the YAML of `spl fit`.
        attempts: the folders of earlier attempts that did not finish, oldest first.
        estimate: the estimated seconds of the run.
        correction: the class of its correction, which the estimate does not include; empty without one.
    """

    digest: str
    config: dict[str, Any]
    attempts: list[str]
    estimate: float = 0.0
    correction: str = ""

    def cost(self, together: bool) -> Cost:
        """Return the cost of the run, stacked with others or alone."""
        return Cost(self.estimate, together, self.correction)


@dataclass(frozen=True)
class Group:
    """A batch of planned runs.

    Attributes:
        runs: the runs.
        together: whether they are trained stacked.
    """

    runs: Sequence[PlannedRun]
    together: bool


@dataclass(frozen=True)
class Job:
    """The work of one process.

    Attributes:
        name: the name of the job, and of its files.
        groups: groups of runs, made one after the other.
        deadline: the deadline of the command; None without one.
    """

    name: str
    groups: Sequence[Group]
    deadline: Deadline | None = None

    @property
    def digests(self) -> list[str]:
        """The digests of all runs."""
        return [run.digest for group in self.groups for run in group.runs]

    def may_begin(self, runs: Iterable[PlannedRun], together: bool) -> bool:
        """Return whether runs that begin now should end before the deadline."""
        return self.deadline is None or self.deadline.allows(run.cost(together) for run in runs)

    def has_time(self) -> bool:
        """Return whether one of the groups may begin now."""
        return self.deadline is None or any(self.may_begin(group.runs, group.together) for group in self.groups)

    def write(self, folder: Path) -> Path:
        """Write the job into a file of `folder`, whole or not at all, and return the file."""
        file = folder / f"{self.name}.json"
        write_whole(file, json.dumps(asdict(self)).encode())
        return file

    @classmethod
    def read(cls, file: Path) -> "Job":
        """Read a job from the file that `write` made."""
        content = json.loads(file.read_text())
        groups = [Group([PlannedRun(**run) for run in g["runs"]], g["together"]) for g in content["groups"]]
        deadline = content.get("deadline")
        return cls(content["name"], groups, None if deadline is None else Deadline(**deadline))


def waves(runs: Iterable[Run]) -> list[list[Run]]:
    """Return the runs in the order in which they can be made: each wave starts from weights of the waves before it."""
    by_depth: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_depth[_depth(run)].append(run)
    return [by_depth[depth] for depth in sorted(by_depth)]


def _depth(run: Run) -> int:
    return max((1 + _depth(before) for before in run.before), default=0)


def batches(runs: Iterable[Run], processes: int = 1) -> list[list[Batch]]:
    """Return the batches of each process, the longest first: one, or as many short ones as are worth a process.

    Args:
        runs: the runs.
        processes: the number of processes at a time, among which short work is divided.
    """
    planned: list[Batch] = []
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if _can_be_stacked(run):
            alike[_stacking_key(run)].append(run)
        else:
            planned.append((False, [run]))
    for group in alike.values():
        if len(group) >= _MIN_STACKED:
            planned += [(True, stack) for stack in _even_stacks(group, processes)]
        else:
            planned += [(False, [run]) for run in group]
    share = sum(map(_duration, planned)) / processes
    enough = min(_MIN_JOB_SECONDS, max(_LEAST_JOB_SECONDS, 0.75 * share))
    return sorted(_fill_jobs(planned, enough), key=lambda job: -sum(map(_duration, job)))


def _duration(batch: Batch) -> float:
    return sum(map(seconds, batch[1]))


def _even_stacks(group: list[Run], processes: int) -> Iterator[list[Run]]:
    """Split `group` into stacks, none of which is much smaller than the others, and one for each process if it pays."""
    count = max(-(-len(group) // _MAX_STACKED), min(processes, len(group) // _MIN_STACKED))
    size = -(-len(group) // count)
    return (group[start : start + size] for start in range(0, len(group), size))


def _fill_jobs(planned: Iterable[Batch], enough: float) -> Iterator[list[Batch]]:
    """Yield the batches of each job, longest first, so that every job but the last one takes `enough` seconds."""
    job: list[Batch] = []
    for batch in sorted(planned, key=_duration, reverse=True):
        job.append(batch)
        if sum(map(_duration, job)) > enough:
            yield job
            job = []
    if job:
        yield job


def plan_run(run: Run, results: Results, data_root: Path | None, sharing: int = 1) -> PlannedRun:
    """Return the run for its process; the weights that it starts from must be finished.

    Args:
        run: the run.
        results: the finished runs.
        data_root: the folder of the data sets; None for what the configuration says.
        sharing: the number of processes that share an accelerator.
    """
    weights = [
        None if before is None else results[before.digest].folder / CHECKPOINT
        for before in (run.pretrained, run.scored)
    ]
    attempts = [str(folder) for folder in results.unfinished.get(run.digest, [])]
    correction = run.config["pruning"].get("isometry")
    kind = correction.get("class_path", "") if isinstance(correction, dict) else str(correction or "")
    return PlannedRun(run.digest, run.on_machine(data_root, *weights), attempts, seconds(run, sharing), kind)


def _can_be_stacked(run: Run) -> bool:
    """Return whether a run trains a network that can be stacked, and asks for nothing that stacked training lacks."""
    config = run.config
    usual = config["trainer"].keys() <= _STACKED_TRAINER and config["model"].keys() <= _STACKED_MODEL
    usual = usual and config.get("moving", {}).get("update") is None  # masks that are stacked stay as they are
    if not usual or run.steps == 0 or "checkpoint" in config or not config["data"]["class_path"].startswith(_DATA):
        return False
    try:
        return can_be_stacked(run.build_network())
    except Exception:  # of a network that cannot be built without values
        return False


def _stacking_key(run: Run) -> str:
    """Return what networks that train together have in common."""
    config = run.config
    model = {key: value for key, value in config["model"].items() if key not in _OWN}
    return json.dumps([config["trainer"], config["data"], config.get("spectrum"), model], sort_keys=True)
