"""Tables that fit the terminal, for the networks of the first ten minutes."""

import pytest
import torch

from spl import Masks, networks
from spl.callbacks.reporting.tables import layer_table, spectrum_table
from spl.diagnosis import diagnose
from spl.export import summarize
from spl.functional.text_table import Column, terminal_width, text_table
from spl.isometry import Change
from spl.isometry.pruned_layer import Residuals
from spl.jacobian import Spectrum

NETWORKS = {
    "quickstart": (networks.MLP, (784,)),
    "ResNet-20": (networks.ResNet, (3, 32, 32)),
    "VGG16": (networks.VGG16, (3, 32, 32)),
}


def pruned(name):
    kind, shape = NETWORKS[name]
    network = kind().eval()
    generator = torch.Generator().manual_seed(0)
    weights = {key: w for key, w in network.named_parameters() if w.ndim > 1}
    masks = Masks({key: torch.rand(w.shape, generator=generator) < 0.1 for key, w in weights.items()})
    return network, masks, torch.randn(1, *shape)


def width(text):
    return max(map(len, text.splitlines()))


def numbers(text):
    return [word for word in text.split() if word[0].isdigit()]


@pytest.mark.parametrize("operators", [False, True], ids=["matrices", "operators"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_after_fit_fits_80_columns(name, operators, monkeypatch):
    _, masks, _ = pruned(name)
    before, after = Residuals(13.87654, 13.97 if operators else 13.87654), Residuals(2.87654, 2.87654)
    changes = {key: Change(before, after, 2.12, rank=512, gain=1.0, moved=1.2, vanished=12345) for key in masks}
    whole = layer_table(masks, changes)
    monkeypatch.setenv("COLUMNS", "80")
    assert width(whole) > 80 >= width(layer_table(masks, changes))
    assert f" {masks.kept}" in layer_table(masks, changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_summary_fits_80_columns_and_has_the_same_numbers(name, monkeypatch):
    summary = summarize(*pruned(name))
    whole = summary.table()
    monkeypatch.setenv("COLUMNS", "80")
    assert width(summary.table()) <= 80
    assert numbers(summary.table()) == numbers(whole)


def test_a_diagnosis_fits_80_columns(monkeypatch):
    network, masks, _ = pruned("quickstart")
    diagnosis = diagnose(network, masks, torch.randn(50, 784), torch.randint(10, (50,)))
    assert width(str(diagnosis)) > 80
    monkeypatch.setenv("COLUMNS", "80")
    text = str(diagnosis)
    assert width(text) <= 80
    assert text.count("\nlayer ") == 1  # a second table, for the columns that have no room in the first
    assert all(text.count(f"\n{layer.removesuffix('.weight')} ") == 2 for layer in diagnosis.layers)
    assert text.count("\ntotal ") == 1


def test_the_table_of_spectra_fits_80_columns():
    assert width(spectrum_table({"corrected": Spectrum.of(torch.rand(10, 10))})) <= 80


def test_columns_that_have_no_room_follow_below_with_the_names_of_the_rows():
    columns = [Column("layer", ["fc1", "total"]), Column("weights", ["10", "20"]), Column("rank", ["3", ""])]
    assert text_table(columns, width=13).splitlines() == [
        "layer weights",
        "----- -------",
        "fc1        10",
        "total      20",
        "",
        "layer rank",
        "----- ----",
        "fc1      3",
    ]


def test_a_column_wider_than_the_terminal_is_printed_all_the_same():
    assert "a very long name of a layer" in text_table([Column("layer", ["a very long name of a layer"] * 2)] * 2, 10)


def test_without_a_terminal_nothing_is_shortened(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert terminal_width() > 10_000
