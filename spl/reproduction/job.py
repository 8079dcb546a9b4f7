"""Job: runs that one process makes, one after the other or, as a population, together."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spl.population import can_be_stacked
from spl.reproduction.results import Results
from spl.reproduction.run import Run

_UNTRAINED = 24  # runs without training in one job: about a minute of scores and spectra
_POPULATION = 16  # networks that train together, at most


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
class Job:
    """What one process does.

    Attributes:
        name: for people, and for the files of the job.
        runs: the runs.
        together: whether they train as a population.
    """

    name: str
    runs: Sequence[PlannedRun]
    together: bool

    def write(self, folder: Path) -> Path:
        """Into a file of `folder`, whole or not at all."""
        file = folder / f"{self.name}.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        return partial.rename(file)

    @classmethod
    def read(cls, file: Path) -> "Job":
        """From such a file."""
        content = json.loads(file.read_text())
        return cls(content["name"], [PlannedRun(**run) for run in content["runs"]], content["together"])


def with_ancestors(runs: Iterable[Run]) -> dict[str, Run]:
    """The runs and those that they start from, each once, by digest."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.pretrained is not None:
            found |= with_ancestors([run.pretrained])
        found[run.digest] = run
    return found


def waves(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs in the order in which they can be made: each wave starts from weights of the ones before it."""
    by_depth: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_depth[_depth(run)].append(run)
    return [by_depth[depth] for depth in sorted(by_depth)]


def _depth(run: Run) -> int:
    return 0 if run.pretrained is None else 1 + _depth(run.pretrained)


def batches(runs: Iterable[Run]) -> Iterator[tuple[bool, tuple[Run, ...]]]:
    """Runs for one process each, and whether they train together: the longest first."""
    untrained, alone, alike = [], [], defaultdict(list)
    for run in runs:
        if run.steps == 0:
            untrained.append(run)
        elif can_be_stacked(run.build_network()):
            alike[_training(run)].append(run)
        else:
            alone.append(run)
    yield from ((False, (run,)) for run in sorted(alone, key=lambda run: -run.steps))
    for group in sorted(alike.values(), key=lambda group: -group[0].steps):
        yield from ((True, some) for some in _cut(group, _even(len(group))))
    yield from ((False, some) for some in _cut(untrained, _UNTRAINED))


def _cut(runs: list[Run], size: int) -> Iterator[tuple[Run, ...]]:
    return (tuple(runs[start : start + size]) for start in range(0, len(runs), size))


def _even(count: int) -> int:
    """The size of the populations that `count` networks make, so that none is much smaller than the others."""
    populations = -(-count // _POPULATION)
    return -(-count // populations)


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
