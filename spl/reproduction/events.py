"""What a run has logged for TensorBoard: scalars, images of masks and histograms of scores."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import (
    HISTOGRAMS,
    IMAGES,
    SCALARS,
    EventAccumulator,
)

from spl.errors import InputError


def check_events(folder: Path) -> None:
    """Raise an `InputError` if a file of events is something else, such as a pipe, of which reading may never end."""
    for file in folder.glob("*tfevents*"):
        if not file.is_file():
            raise InputError(f"{file} is no regular file")


def events_in(folder: Path) -> EventAccumulator:
    """Return the images and histograms in the folder of a run, all of them.

    Raises:
        InputError: a file of events is something else.
    """
    return _read(folder, {IMAGES: 0, HISTOGRAMS: 0, SCALARS: 1})


def scalars_of(folders: Iterable[Path]) -> dict[str, list[list[float]]]:
    """Return all scalars that were logged in the folders of one run, of which the later ones resumed the earlier."""
    steps: dict[str, dict[int, float]] = {}
    for folder in folders:
        events = _read(folder, {IMAGES: 1, HISTOGRAMS: 1, SCALARS: 0})
        for tag in events.Tags()["scalars"]:
            steps.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: [[step, values[step]] for step in sorted(values)] for tag, values in steps.items()}


def _read(folder: Path, numbers: dict[str, int]) -> EventAccumulator:
    """Read the events in a folder, of each kind as many of a tag as `numbers` says, or all for 0."""
    check_events(folder)
    events = EventAccumulator(str(folder), size_guidance=numbers)
    events.Reload()
    return events


def last_mask(events: EventAccumulator, tag: str) -> np.ndarray:
    """Return the last image of a tag as bool [height, width], True for white."""
    return _grey(events.Images(tag)[-1].encoded_image_string) > 0.5


def last_histogram(events: EventAccumulator, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the upper limits [k] of the bins and the counts [k] of the last histogram of a tag."""
    histogram = events.Histograms(tag)[-1].histogram_value
    return np.array(histogram.bucket_limit), np.array(histogram.bucket)


def _grey(png: bytes) -> np.ndarray:
    image = imread(io.BytesIO(png), format="png")
    return image if image.ndim == 2 else image[..., 0]
