"""The results of finished runs, found again by the digests of their configurations."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spl.errors import InputError, first_line
from spl.files import write_whole
from spl.reproduction.events import events_in, last_histogram, last_mask
from spl.reproduction.run import CHECKPOINT, RUN_FILE, Run, digest_of
from spl.reproduction.saved_results import read_result, say_unfinished, say_unreadable

RESULT_FILE = "result.json"
_STAGES = ("corrected", "pruned", "dense")  # training starts at the first of these that a run has


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    Attributes:
        folder: the folder of the run, with its events and checkpoints.
        digest: the digest of the run.
        test: loss and accuracy on the test set, of the weights "final" and "best" (by validation accuracy); "best"
            is absent where nothing was trained.
        scalars: [step, value] of everything that was logged, by tag.
        record: where and how the run was made: device, threads, versions, seconds, and under "population" the number
            of runs that were trained together.
        attempts: the folders of attempts that were interrupted, which have what was logged before training.
    """

    folder: Path
    digest: str
    test: dict[str, dict[str, float]]
    scalars: dict[str, list[list[float]]]
    record: dict[str, Any]
    attempts: Sequence[Path] = ()

    @classmethod
    def read(cls, folder: Path, attempts: Sequence[Path] = ()) -> "Result":
        """Read the result in a folder.

        Raises:
            InputError: it is damaged.
        """
        return cls(folder=folder, attempts=attempts, **read_result(folder / RESULT_FILE))

    def write(self) -> None:
        """Write the result into its folder, whole or not at all."""
        content = {key: value for key, value in asdict(self).items() if key not in ("folder", "attempts")}
        write_whole(self.folder / RESULT_FILE, json.dumps(content).encode())

    def series(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps [k] and values [k] of a scalar, empty if it was not logged."""
        pairs = np.array(self.scalars.get(tag, []), dtype=float).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def last(self, tag: str) -> float:
        """Return the last value of a scalar; NaN if it was not logged."""
        _, values = self.series(tag)
        return float(values[-1]) if len(values) else float("nan")

    @property
    def has_diverged(self) -> bool:
        """Whether the training loss was not a number, or infinite, at some iteration."""
        return not bool(np.isfinite(self.series("loss/train")[1]).all())

    def error(self, which: str = "final") -> float:
        """Return the test error in % of the weights "final" or "best" (by validation accuracy); NaN if not tested."""
        return 100 * (1 - self.test[which]["accuracy"]) if which in self.test else float("nan")

    def jsv(self, statistic: str, stage: str | None = None) -> float:
        """Return a statistic of the Jacobian singular values.

        Args:
            statistic: mean, std, max, min or condition.
            stage: dense, pruned or corrected; None for the stage at which training starts.
        """
        stages = [stage] if stage else [s for s in _STAGES if f"jacobian/{s}/mean" in self.scalars]
        return self.last(f"jacobian/{stages[0]}/{statistic}") if stages else float("nan")

    def layer_sparsity(self) -> dict[str, float]:
        """Return the share of weights that were removed from each layer, in the order of layers, without biases."""
        tags = {tag: tag.removeprefix("sparsity/") for tag in self.scalars if tag.startswith("sparsity/")}
        layers = {layer: self.last(tag) for tag, layer in tags.items()}
        return {k: v for k, v in layers.items() if k != "global" and not k.endswith(".bias")}

    def orthogonality_score(self) -> float:
        """Return the orthogonality score of the weights that training starts from; NaN for a dense network."""
        for stage in _STAGES:
            score = self.last(f"isometry/score/{stage}")
            if score == score:
                return score
        return float("nan")

    def masks(self) -> dict[str, np.ndarray]:
        """Return bool masks [out, in] of the weights, by layer, from the images in the run's events.

        There are none if the events are damaged, which a line on stderr says; so it is with `saliency`.
        """
        return self._from_events("images", "masks/", last_mask)

    def saliency(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return a histogram of log10 of the scores, by layer: the upper limits [k] of the bins, and counts [k]."""
        return self._from_events("histograms", "saliency_log10/", last_histogram)

    def _from_events(self, kind: str, prefix: str, read: Callable[[EventAccumulator, str], Any]) -> dict[str, Any]:
        """Return what was logged of weights, by layer; nothing if it cannot be read."""
        for folder in (self.folder, *self.attempts):
            try:
                events = events_in(folder)
                tags = [t for t in events.Tags()[kind] if t.startswith(prefix) and not t.endswith(".bias")]
                if tags:
                    return {tag.removeprefix(prefix): read(events, tag) for tag in tags}
            except Exception as error:  # protocol buffers, PNG and their readers have errors of their own
                say_unreadable(folder, f"{type(error).__name__}: {first_line(error)}")
        return {}


def _digest_or_none(file: Path, known: dict[Path, str]) -> str | None:
    """Return the digest of a run; None if its file is damaged, or the run that it started from is gone."""
    try:
        return digest_of(file, known=known)
    except InputError as error:
        say_unfinished(file.parent, str(error))
        return None


class Results(Mapping[str, Result]):
    """The finished runs below a folder, by digest.

    Args:
        root: the folder in which to look for runs.

    A run whose result is damaged counts as unfinished, which a line on stderr says.

    Attributes:
        folders: the folders of runs that have a result, by digest.
        unfinished: the folders of attempts without a result that can be read, by digest, oldest first.
    """

    def __init__(self, root: Path) -> None:
        self.folders: dict[str, Path] = {}
        self.unfinished: dict[str, list[Path]] = {}
        known: dict[Path, str] = {}
        for file in sorted(root.rglob(RUN_FILE), key=_version):
            digest = _digest_or_none(file, known)
            if digest is None:
                continue
            if (file.parent / RESULT_FILE).is_file() and _is_result(file.parent):
                if _has_weights(file.parent) or not self.has_weights(digest):
                    self.folders[digest] = file.parent
            else:
                self.unfinished.setdefault(digest, []).append(file.parent)
        self._read: dict[str, Result] = {}

    def __getitem__(self, digest: str) -> Result:
        if digest not in self._read:
            self._read[digest] = Result.read(self.folders[digest], self.unfinished.get(digest, ()))
        return self._read[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)

    def has_weights(self, digest: str) -> bool:
        """Return whether a run is finished and its final weights are here, from which other runs can start."""
        return digest in self.folders and _has_weights(self.folders[digest])

    def of(self, runs: Iterable[Run]) -> list[Result]:
        """Return the results of those of `runs` that are finished, in their order."""
        return [self[run.digest] for run in runs if run.digest in self]


def _has_weights(folder: Path) -> bool:
    return (folder / CHECKPOINT).is_file()


def _version(file: Path) -> tuple[int, Path]:
    """Return what sorts the attempts of a run by age: the version of the folder, because clocks may go back."""
    number = file.parent.name.removeprefix("version_")
    return (int(number) if number.isdecimal() and len(number) < 10 else -1), file


def _is_result(folder: Path) -> bool:
    """Return whether the result in a folder can be read; say so if it cannot."""
    try:
        file = folder / RESULT_FILE
        status = file.stat()
        _check_once(file, status.st_mtime_ns, status.st_size)
    except (InputError, OSError) as error:
        say_unfinished(folder, str(error))
        return False
    return True


@cache
def _check_once(file: Path, time: int, size: int) -> None:
    """Check a result, once for each state of its file, because each wave of runs looks at all results."""
    read_result(file)
