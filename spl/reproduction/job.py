"""Job: runs that one process makes, one after the other, some of them together as a population."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spl.files import write_whole
from spl.reproduction.cost import seconds
from spl.reproduction.results import Results
from spl.reproduction.run import Run
from spl.reproduction.stacked import can_be_stacked

_WORTH = 60.0  # seconds, from which a job is worth the start of a process
_POPULATION = 16  # networks that train together, at most
_PAYS = 4  # and at least: from here on a population is faster than its networks one by one, on a CPU too

Batch = tuple[bool, list[Run]]
"""Runs, and whether they train together; one that does not is alone."""


@dataclass(frozen=True)
class PlannedRun:
    """A run as its process needs it.

    Attributes:
        digest: of the run.
        config: the YAML of `spl fit`.
        attempts: folders of earlier attempts that did not finish, oldest first.
    """

    digest: str
    config: dict[str, Any]
    attempts: list[str]


@dataclass(frozen=True)
class Group:
    """A batch of planned runs.

    Attributes:
        runs: the runs.
        together: whether they train as a population.
    """

    runs: Sequence[PlannedRun]
    together: bool


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        name: for people, and for the files of the job.
        groups: of runs, made one after the other.
    """

    name: str
    groups: Sequence[Group]

    def write(self, folder: Path) -> Path:
        """Into a file of `folder`, whole or not at all."""
        file = folder / f"{self.name}.json"
        write_whole(file, json.dumps(asdict(self)).encode())
        return file

    @classmethod
    def read(cls, file: Path) -> "Job":
        """From such a file."""
        content = json.loads(file.read_text())
        groups = [Group([PlannedRun(**run) for run in g["runs"]], g["together"]) for g in content["groups"]]
        return cls(content["name"], groups)


def waves(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs in the order in which they can be made: each wave starts from weights of the ones before it."""
    by_depth: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_depth[_depth(run)].append(run)
    return [by_depth[depth] for depth in sorted(by_depth)]


def _depth(run: Run) -> int:
    return 0 if run.pretrained is None else 1 + _depth(run.pretrained)


def batches(runs: Iterable[Run]) -> list[list[Batch]]:
    """Batches of runs for each process: one, or as many short ones as make it worth a process; the longest first."""
    found: list[Batch] = []
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.steps > 0 and can_be_stacked(run.build_network()):
            alike[_training(run)].append(run)
        else:
            found.append((False, [run]))
    for group in alike.values():
        pays = len(group) >= _PAYS
        found += [(True, some) for some in _even(group)] if pays else [(False, [run]) for run in group]
    return sorted(_filled(found), key=lambda some: -sum(map(_duration, some)))


def _duration(batch: Batch) -> float:
    return sum(map(seconds, batch[1]))


def _even(group: list[Run]) -> Iterator[list[Run]]:
    """Populations of which none is much smaller than the others."""
    count = -(-len(group) // _POPULATION)
    size = -(-len(group) // count)
    return (group[start : start + size] for start in range(0, len(group), size))


def _filled(found: Iterable[Batch]) -> Iterator[list[Batch]]:
    some: list[Batch] = []
    for batch in sorted(found, key=_duration, reverse=True):
        some.append(batch)
        if sum(map(_duration, some)) > _WORTH:
            yield some
            some = []
    if some:
        yield some


def planned(run: Run, results: Results, data_root: Path) -> PlannedRun:
    """The run, where the weights that it starts from are finished."""
    weights = None
    if run.pretrained is not None:
        weights = results[run.pretrained.digest].folder / "checkpoints" / "last.ckpt"
    attempts = [str(folder) for folder in results.unfinished.get(run.digest, [])]
    return PlannedRun(run.digest, run.on_machine(data_root, weights), attempts)


def _training(run: Run) -> str:
    """What networks that train together have in common."""
    config = run.config
    shared = {"network", "optimizer", "lr_scheduler"}
    model = {key: value for key, value in config["model"].items() if key in shared}
    return json.dumps([config["trainer"], config["data"], config["spectrum"], model], sort_keys=True)
