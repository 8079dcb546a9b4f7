"""Functions that log masks, saliency scores, spectra and hyperparameters to TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from spl.lightning_api import TensorBoardLogger, Trainer
from spl.masks.masks import Masks


def writer(trainer: Trainer) -> SummaryWriter | None:
    """Return the writer of the Trainer's TensorBoardLogger on the first process; None if there is none."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            experiment: SummaryWriter = logger.experiment
            return experiment
    return None


def layer(name: str) -> str:
    """Return the name of the layer of a weight (`fc1.weight` → `fc1`), or that of any other parameter unchanged.

    Example:
        >>> from spl.callbacks.reporting.tensorboard import layer
        >>> layer("fc1.weight"), layer("attention.in_proj_weight")
        ('fc1', 'attention.in_proj_weight')
    """
    return name.removesuffix(".weight")


def add_masks(writer: SummaryWriter, masks: Masks) -> None:
    """Log each mask as an image [out, in·k], white for kept and black for pruned, as in Figure 1 of the paper."""
    for name, mask in masks.items():
        writer.add_image(f"masks/{layer(name)}", mask.flatten(1) if mask.ndim > 1 else mask[None], 0, dataformats="HW")


def add_saliency(writer: SummaryWriter, scores: Mapping[str, Tensor]) -> None:
    """Log a histogram of log10 of each layer's scores, because they span many decades; zeros are left out."""
    for name, score in scores.items():
        positive = score[score > 0]
        if len(positive):
            writer.add_histogram(f"saliency_log10/{layer(name)}", positive.log10(), 0)


def add_singular_values(writer: SummaryWriter, tag: str, values: Tensor, step: int) -> None:
    """Log a histogram of the finite singular values."""
    finite = values[values.isfinite()]
    if len(finite):
        writer.add_histogram(tag, finite, step)


def add_picture(writer: SummaryWriter, tag: str, pixels: NDArray[np.uint8]) -> None:
    """Log an image [H, W, 3]."""
    writer.add_image(tag, pixels, 0, dataformats="HWC")


def add_page(writer: SummaryWriter, tag: str, page: str, step: int) -> None:
    """Log a text in a fixed-width font, as the terminal shows it."""
    writer.add_text(tag, "\n".join(f"    {line}" for line in page.splitlines()), step)


def add_hyperparameters(
    writer: SummaryWriter, choices: Mapping[str, str | float | int], metrics: Sequence[str]
) -> None:
    """Fill the HPARAMS tab with `choices` and, for each scalar in `metrics`, the last value that it will have."""
    events: Any = writer.file_writer
    for summary in hparams(dict(choices), dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
        events.add_summary(summary)
