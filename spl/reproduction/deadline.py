"""The deadline of a command, and the judgement of which runs end before it."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spl.errors import InputError

_PACE = ".pace"
_SKIPPED = ".skipped"
_SIMILAR = 1.25  # the most by which estimates of similar runs differ, as a factor


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a run, and what else decides how long it takes.

    Attributes:
        estimate: the estimated seconds.
        together: whether the run trains stacked with others.
        kind: what the estimate does not include, such as the correction.
    """

    estimate: float
    together: bool
    kind: str


@dataclass(frozen=True)
class Deadline:
    """The time by which a command wants to end. Runs begin only if they should end before it.

    Attributes:
        at: the time, in seconds since the epoch, which is the same on all machines.
        folder: the folder of the jobs of the command, in which finished runs have noted how long they took.
    """

    at: float
    folder: str

    def allows(self, costs: Iterable[Cost]) -> bool:
        """Return whether runs that begin now, one after the other or stacked, should end before the deadline."""
        finished = list(_finished(Path(self.folder)))
        return time.time() + sum(_expected(cost, finished) for cost in costs) <= self.at


def deadline_in(minutes: float) -> float:
    """Return the time in so many minutes, in seconds since the epoch.

    Raises:
        InputError: the number is not positive.
    """
    if not minutes > 0:
        raise InputError(f"minutes must be positive, got {minutes:g}.")
    return time.time() + 60 * minutes


def note_pace(file: Path, cost: Cost, seconds: float) -> None:
    """Note beside the file of a job that one of its runs took so many seconds."""
    with file.with_suffix(_PACE).open("a") as stream:
        stream.write(json.dumps([cost.estimate, cost.together, cost.kind, seconds]) + "\n")


def note_skipped(file: Path, digests: Iterable[str]) -> None:
    """Note beside the file of a job that runs were not begun because of the deadline."""
    with file.with_suffix(_SKIPPED).open("a") as stream:
        stream.writelines(f"{digest}\n" for digest in digests)


def skipped(file: Path) -> set[str]:
    """Return the digests of the runs of a job that were not begun because of the deadline."""
    with suppress(OSError):
        return set(file.with_suffix(_SKIPPED).read_text(errors="replace").split())
    return set()


def _finished(folder: Path) -> Iterator[tuple[Cost, float]]:
    """Yield the costs of finished runs, and the seconds that they took; a line that is not whole is left out."""
    for file in folder.glob(f"*{_PACE}"):
        for line in file.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                estimate, together, kind, seconds = json.loads(line)
                yield Cost(float(estimate), together, kind), float(seconds)


def _expected(cost: Cost, finished: Sequence[tuple[Cost, float]]) -> float:
    """Return how many seconds a run should take.

    The pace is that of the slowest finished run of similar cost and of the same kind or, without one, of any kind. If
    no run of similar cost is finished, it is the mean pace of the finished runs. Until a run is finished, the estimate
    decides. Runs that train stacked and runs that train alone are never compared.
    """
    alike = [(done, seconds) for done, seconds in finished if done.together == cost.together and done.estimate > 0]
    similar = [(done, seconds) for done, seconds in alike if 1 / _SIMILAR <= cost.estimate / done.estimate <= _SIMILAR]
    same_kind = [(done, seconds) for done, seconds in similar if done.kind == cost.kind]
    if chosen := same_kind or similar:
        return cost.estimate * max(seconds / done.estimate for done, seconds in chosen)
    if alike:
        return cost.estimate * sum(seconds for _, seconds in alike) / sum(done.estimate for done, _ in alike)
    return cost.estimate
