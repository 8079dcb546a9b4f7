import io
import math
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from spl.callbacks.reporting import tensorboard
from spl.callbacks.reporting.figures import compare_spectra, draw
from spl.callbacks.reporting.tables import dead_outputs, layer_table, spectrum_table
from spl.isometry import Change, Residuals
from spl.jacobian import Spectrum
from spl.masks.masks import Masks

MASKS = Masks(
    {
        "fc1.weight": torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool),
        "fc1.bias": torch.tensor([1, 0, 0, 0], dtype=torch.bool),
        "conv.weight": torch.tensor([1, 1, 0, 0, 0, 0], dtype=torch.bool).view(3, 1, 1, 2),
    }
)


def titles(table: str) -> list[str]:
    """Return the header, split at two or more spaces."""
    return [title.strip() for title in table.splitlines()[0].split("  ") if title.strip()]


def cells(table: str) -> list[list[str]]:
    """Return the rows below the header, split at two or more spaces."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()[2:]]


# Tables


def test_dead_outputs_have_lost_every_incoming_weight_and_biases_have_none():
    assert dead_outputs(MASKS) == {"fc1.weight": 2, "fc1.bias": 0, "conv.weight": 2}


def change(before: Residuals, after: Residuals, floor: float = 0.0) -> Change:
    return Change(before, after, floor, rank=2, gain=1.0, moved=1.2345, vanished=1)


def test_layer_table_has_one_row_a_layer_and_their_total():
    changes = {
        "fc1.weight": change(Residuals(1.23456, 1.23456), Residuals(0.00049, 0.00049)),
        "conv.weight": change(Residuals(2.0, 2.0), Residuals(1.0, 1.0), floor=1.0),
    }
    table = layer_table(MASKS, changes)
    assert titles(table)[5:] == ["isometry before", "after", "floor", "rank", "moved", "vanished"]
    assert cells(table) == [
        ["fc1.weight", "12", "3", "0.7500", "2", "1.2346", "0.0005", "0.0000", "2", "1.23", "1"],
        ["fc1.bias", "4", "1", "0.7500", "0"],
        ["conv.weight", "6", "2", "0.6667", "2", "2.0000", "1.0000", "1.0000", "2", "1.23", "1"],
        ["total", "22", "6", "0.7273", "4"],
    ]


@pytest.mark.parametrize(
    ("before", "after", "columns"),
    [
        (Residuals(2.0, 3.25), Residuals(0.5, 0.5), ["2.0000", "0.5000", "0.0000", "3.2500", "0.5000"]),
        (Residuals(2.0, 2.0), Residuals(0.5, 0.75), ["2.0000", "0.5000", "0.0000", "2.0000", "0.7500"]),
    ],
)
def test_layer_table_has_the_residuals_of_operators_where_they_differ_from_the_matrices(before, after, columns):
    same = change(Residuals(4.0, 4.0), Residuals(1.0, 1.0))
    table = layer_table(MASKS, {"fc1.weight": same, "conv.weight": change(before, after)})
    assert titles(table)[5:10] == ["isometry before", "after", "floor", "operator before", "after"]
    fc1, bias, conv, total = cells(table)
    assert fc1[5:10] == ["4.0000", "1.0000", "0.0000", "4.0000", "1.0000"]
    assert conv[5:10] == columns
    assert len(bias) == len(total) == 5


def test_layer_table_without_correction():
    table = layer_table(MASKS, {})
    assert cells(table)[0] == ["fc1.weight", "12", "3", "0.7500", "2"]
    assert titles(table) == ["layer", "weights", "kept", "sparsity", "dead outputs"]
    assert len({len(line.rstrip()) for line in table.splitlines()[2:]}) == 1  # numbers are right-aligned


def test_spectrum_table_has_one_row_a_stage():
    spectra = {
        "dense": Spectrum(mean=1.0, std=0.5, max=2.0, min=0.25, condition=8.0),
        "pruned": Spectrum(mean=2.464e-7, std=0.0, max=1.0, min=0.0, condition=math.inf),
    }
    table = spectrum_table(spectra)
    assert table.splitlines()[0].split() == ["Jacobian", "mean", "std", "max", "min", "condition"]
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["dense", "1", "0.5", "2", "0.25", "8"],
        ["pruned", "2.464e-07", "0", "1", "0", "inf"],
    ]


# Figures


def test_a_figure_has_one_curve_a_stage_that_climbs_from_the_smallest_value_to_the_largest():
    spectra = {"dense": torch.tensor([[4.0, 2.0], [1.0, 8.0]]), "corrected": torch.tensor([0.5])}
    figure = compare_spectra(spectra, title="MLP-7")
    (axes,) = figure.axes
    dense, corrected = axes.lines
    assert dense.get_xdata().tolist() == [1.0, 2.0, 4.0, 8.0]
    assert dense.get_ydata().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert corrected.get_xdata().tolist() == [0.5]
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense, mean 3.75", "corrected, mean 0.5"]
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "MLP-7"
    assert dense.get_color() != corrected.get_color()
    assert dense.get_linestyle() != corrected.get_linestyle()


def test_zeros_do_not_fit_a_logarithmic_axis_but_count_as_smaller_values():
    figure = compare_spectra({"pruned": torch.tensor([0.0, 0.0, 2.0, 4.0, float("nan")])})
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [2.0, 4.0]
    assert line.get_ydata().tolist() == [0.75, 1.0]
    assert line.get_label() == "pruned, mean 1.5"


@pytest.mark.parametrize("values", [torch.zeros(3), torch.full((2,), float("nan")), torch.empty(0)])
def test_a_stage_without_positive_values_has_no_curve(values):
    figure = compare_spectra({"dense": torch.ones(2), "pruned": values})
    assert len(figure.axes[0].lines) == 1
    assert compare_spectra({"pruned": values}).legends == []


@pytest.mark.parametrize("stages", [[], ["dense"], ["dense", "pruned", "corrected"]])
def test_figures_can_be_drawn(stages):
    picture = io.BytesIO()
    compare_spectra({stage: torch.rand(4, 10) + 0.1 for stage in stages}).savefig(picture, format="png")
    assert Image.open(picture).size == (960, 540)


# Event files


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "scalars": 0}).Reload()


def image(folder: Path, tag: str) -> Image.Image:
    (event,) = events(folder).Images(tag)
    assert event.step == 0
    return Image.open(io.BytesIO(event.encoded_image_string))


def test_masks_are_images_white_where_kept(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        tensorboard.add_masks(writer, MASKS)
    assert sorted(events(tmp_path).Tags()["images"]) == ["masks/conv", "masks/fc1", "masks/fc1.bias"]
    for tag, mask in {"fc1": MASKS["fc1.weight"], "fc1.bias": MASKS["fc1.bias"][None]}.items():
        picture = image(tmp_path, f"masks/{tag}").convert("L")
        assert picture.size == (mask.shape[1], mask.shape[0])
        assert list(picture.tobytes()) == [255 * int(bit) for bit in mask.flatten()]
    assert image(tmp_path, "masks/conv").size == (2, 3)


def test_saliency_is_a_histogram_of_the_exponents_of_positive_scores(tmp_path):
    scores = {"fc1.weight": torch.tensor([[1e-3, 0.0], [1e-6, 1e-9]]), "fc2.weight": torch.zeros(2, 2)}
    with SummaryWriter(tmp_path) as writer:
        tensorboard.add_saliency(writer, scores)
    assert events(tmp_path).Tags()["histograms"] == ["saliency_log10/fc1"]
    (event,) = events(tmp_path).Histograms("saliency_log10/fc1")
    histogram = event.histogram_value
    assert (histogram.num, event.step) == (3, 0)
    assert (histogram.min, histogram.max, histogram.sum) == pytest.approx((-9.0, -3.0, -18.0))


def test_singular_values_are_a_histogram_of_the_finite_ones(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        tensorboard.add_singular_values(writer, "jacobian/dense", torch.tensor([[1.0, 3.0], [float("nan"), 0.0]]), 7)
        tensorboard.add_singular_values(writer, "jacobian/pruned", torch.full((2,), float("nan")), 7)
    assert events(tmp_path).Tags()["histograms"] == ["jacobian/dense"]
    (event,) = events(tmp_path).Histograms("jacobian/dense")
    assert (event.step, event.histogram_value.num, event.histogram_value.sum) == (7, 3, 4.0)


def test_figures_are_images(tmp_path):
    figure = compare_spectra({"dense": torch.ones(3)})
    pixels, saved = draw(figure), io.BytesIO()
    figure.savefig(saved, format="png")
    with SummaryWriter(tmp_path) as writer:
        tensorboard.add_picture(writer, "jacobian", pixels)
    assert image(tmp_path, "jacobian").tobytes() == pixels.tobytes() == Image.open(saved).convert("RGB").tobytes()


def test_hyperparameters_stand_beside_their_metrics(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        tensorboard.add_hyperparameters(
            writer, {"criterion": "Magnitude", "sparsity": 0.9, "seed": 3}, ["accuracy/test"], "version_1: Magnitude"
        )
    contents = {
        tag: HParamsPluginData.FromString(content)
        for tag, content in events(tmp_path).PluginTagToContent("hparams").items()
    }
    started = contents["_hparams_/session_start_info"].session_start_info
    assert started.group_name == "version_1: Magnitude"
    chosen = started.hparams
    assert chosen["criterion"].string_value == "Magnitude"
    assert (chosen["sparsity"].number_value, chosen["seed"].number_value) == (0.9, 3)
    experiment = contents["_hparams_/experiment"].experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["accuracy/test"]
    assert events(tmp_path).Tags()["scalars"] == []


def test_a_layer_is_named_by_its_weight():
    names = ["fc1.weight", "fc1.bias", "block.0.weight", "weight"]
    assert [tensorboard.layer(name) for name in names] == ["fc1", "fc1.bias", "block.0", "weight"]


def test_the_writer_is_that_of_the_tensorboard_logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    trainer = L.Trainer(accelerator="cpu", logger=[CSVLogger(tmp_path), logger])
    assert tensorboard.writer(trainer) is logger.experiment
    logger.experiment.close()


@pytest.mark.parametrize("logger", [False, CSVLogger])
def test_there_is_no_writer_without_a_tensorboard_logger(tmp_path, logger):
    trainer = L.Trainer(accelerator="cpu", logger=logger and logger(tmp_path))
    assert tensorboard.writer(trainer) is None
