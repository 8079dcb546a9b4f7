"""Functions that log masks, saliency scores, spectra and hyperparameters to TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import DataClass, SummaryMetadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams, image

from spl.lightning_api import TensorBoardLogger, Trainer
from spl.masks.masks import Masks

START = "jacobian/start/mean"  # the mean singular value of the network that training starts from


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


def add_masks(writer: SummaryWriter, masks: Masks, step: int = 0) -> None:
    """Log each mask as an image [out, in·k], white for kept and black for pruned, as in Figure 1 of the paper.

    The description of each image, which TensorBoard shows at its title, is the key.
    """
    events: Any = writer.file_writer
    for name, mask in masks.items():
        pixels = (mask.flatten(1) if mask.ndim > 1 else mask[None]).cpu().numpy()
        summary = image(f"masks/{layer(name)}", pixels, dataformats="HW")  # type: ignore[no-untyped-call]
        summary.value[0].metadata.CopyFrom(
            SummaryMetadata(
                summary_description=f"White: kept. Black: pruned. Rows: {pixels.shape[0]} outputs. Columns: "
                f"{pixels.shape[1]} inputs. {mask.float().mean():.1%} of {mask.numel():,} weights are kept.",
                plugin_data=SummaryMetadata.PluginData(plugin_name="images"),  # else TensorBoard drops the description
                data_class=DataClass.DATA_CLASS_BLOB_SEQUENCE,
            )
        )
        events.add_summary(summary, step)


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


def add_layout(writer: SummaryWriter, with_accuracy: bool) -> None:
    """Fill the Custom Scalars tab: curves of training and validation together, and singular values as a band.

    Args:
        writer: the writer of the run.
        with_accuracy: whether the module logs loss and accuracy, as a SparseClassifier does.
    """
    curves = {name: ["Multiline", [f"{name}/train", f"{name}/val"]] for name in ("loss", "accuracy")}
    jacobian = [f"jacobian/train/{name}" for name in ("mean", "min", "max")]
    signals = {"Jacobian singular values: mean, and the band from min to max": ["Margin", jacobian]}
    layout = ({"Training": curves} if with_accuracy else {}) | {"Signal propagation": signals}
    writer.add_custom_scalars(layout)


def add_hyperparameters(
    writer: SummaryWriter, choices: Mapping[str, str | float | int], metrics: Sequence[str], trial: str
) -> None:
    """Fill the HPARAMS tab with `choices` and, for each scalar in `metrics`, the last value that it will have.

    Args:
        writer: the writer of the run.
        choices: the hyperparameters, by name.
        metrics: the tags of scalars.
        trial: what tells the run apart from others, for the column Trial ID.
    """
    events: Any = writer.file_writer
    summaries = hparams(dict(choices), dict.fromkeys(metrics, 0.0))  # type: ignore[no-untyped-call]
    plugin = summaries[1].value[0].metadata.plugin_data  # of the second summary, about the start of the session
    content = HParamsPluginData.FromString(plugin.content)
    content.session_start_info.group_name = trial
    plugin.content = content.SerializeToString()
    for summary in summaries:
        events.add_summary(summary)
