"""The results of finished runs, found again by the digests of their configurations."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import (
    HISTOGRAMS,
    IMAGES,
    SCALARS,
    EventAccumulator,
)

from spl.files import write_whole
from spl.reproduction.run import RUN_FILE, Run, digest_of

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
    """

    folder: Path
    digest: str
    test: dict[str, dict[str, float]]
    scalars: dict[str, list[list[float]]]
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """Read the result in a folder."""
        return cls(folder=folder, **json.loads((folder / RESULT_FILE).read_text()))

    def write(self) -> None:
        """Write the result into its folder, whole or not at all."""
        content = asdict(self)
        del content["folder"]
        write_whole(self.folder / RESULT_FILE, json.dumps(content).encode())

    def series(self, tag: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps [k] and values [k] of a scalar, empty if it was not logged."""
        pairs = np.array(self.scalars.get(tag, []), dtype=float).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def last(self, tag: str) -> float:
        """Return the last value of a scalar; NaN if it was not logged."""
        _, values = self.series(tag)
        return float(values[-1]) if len(values) else float("nan")

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

    @cached_property
    def _events(self) -> EventAccumulator:
        events = EventAccumulator(str(self.folder), size_guidance={IMAGES: 0, HISTOGRAMS: 0, SCALARS: 1})
        events.Reload()
        return events

    def masks(self) -> dict[str, np.ndarray]:
        """Return bool masks [out, in] of the weights, by layer, from the images in the run's events."""
        tags = [t for t in self._events.Tags()["images"] if t.startswith("masks/") and not t.endswith(".bias")]
        images = {tag.removeprefix("masks/"): self._events.Images(tag)[-1].encoded_image_string for tag in tags}
        return {layer: _grey(png) > 0.5 for layer, png in images.items()}

    def saliency(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return a histogram of log10 of the scores, by layer: the upper limits [k] of the bins, and counts [k]."""
        histograms = {}
        for tag in self._events.Tags()["histograms"]:
            if tag.startswith("saliency_log10/") and not tag.endswith(".bias"):
                histogram = self._events.Histograms(tag)[-1].histogram_value
                limits, counts = np.array(histogram.bucket_limit), np.array(histogram.bucket)
                histograms[tag.removeprefix("saliency_log10/")] = (limits, counts)
        return histograms


def _digest_or_none(file: Path) -> str | None:
    """Return the digest of a run; None if its file is damaged, or the run that it started from is gone."""
    try:
        return digest_of(file)
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return None


def _grey(png: bytes) -> np.ndarray:
    image = imread(io.BytesIO(png), format="png")
    return image if image.ndim == 2 else image[..., 0]


def scalars_of(folders: Iterable[Path]) -> dict[str, list[list[float]]]:
    """Return all scalars that were logged in the folders of one run, of which the later ones resumed the earlier."""
    steps: dict[str, dict[int, float]] = {}
    for folder in folders:
        events = EventAccumulator(str(folder), size_guidance={IMAGES: 1, HISTOGRAMS: 1, SCALARS: 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: [[step, values[step]] for step in sorted(values)] for tag, values in steps.items()}


class Results(Mapping[str, Result]):
    """The finished runs below a folder, by digest.

    Args:
        root: the folder in which to look for runs.

    Attributes:
        folders: the folders of finished runs, by digest.
        unfinished: the folders of attempts without a result, by digest, oldest first.
    """

    def __init__(self, root: Path) -> None:
        self.folders: dict[str, Path] = {}
        self.unfinished: dict[str, list[Path]] = {}
        for file in sorted(root.rglob(RUN_FILE), key=lambda file: file.stat().st_mtime):
            digest = _digest_or_none(file)
            if digest is None:
                continue
            if (file.parent / RESULT_FILE).is_file():
                self.folders[digest] = file.parent
            else:
                self.unfinished.setdefault(digest, []).append(file.parent)
        self._read: dict[str, Result] = {}

    def __getitem__(self, digest: str) -> Result:
        if digest not in self._read:
            self._read[digest] = Result.read(self.folders[digest])
        return self._read[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)

    def of(self, runs: Iterable[Run]) -> list[Result]:
        """Return the results of those of `runs` that are finished, in their order."""
        return [self[run.digest] for run in runs if run.digest in self]
