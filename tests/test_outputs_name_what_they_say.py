"""Outputs name the criterion, the correction, what was read and the mode of BatchNorm that numbers were measured in."""

import logging
import re
import sys
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from fits import PLAIN, classifier, pruning
from torch import nn

from spl import PruneAtInit, criteria
from spl.__main__ import main
from spl.callbacks import JacobianSpectrum, Summary
from spl.criteria import NTKSAP, ConnectionSensitivity, ShuffledInLayers, SynFlow
from spl.data import MNISTSample
from spl.diagnosis import diagnose
from spl.functional.undisturbed import batch_norm_text
from spl.isometry import EOI, ApproximateIsometry

QUICK = ["--config", str(Path(__file__).parent.parent / "configs" / "quickstart.yaml")]


@pytest.mark.parametrize("criterion", [SynFlow(), NTKSAP(), ShuffledInLayers(SynFlow())])
def test_the_record_of_a_criterion_that_reads_a_shape_has_the_shape(criterion):
    callback = pruning(criterion=criterion, schedule=criteria.schedules.Exponential(2))
    L.Trainer(**(PLAIN | {"callbacks": [callback], "max_steps": 1})).fit(classifier(), datamodule=MNISTSample())
    read = {"data": "MNISTSample", "read": "the shape of one batch", "shape": [100, 1, 28, 28], "batch_norm": "eval"}
    assert read.items() <= callback.record.items()
    assert not {"batches", "examples", "targets"} & callback.record.keys()


def normalized():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_the_table_of_spectra_is_followed_by_the_mode_of_batch_norm(mode, capsys):
    text = batch_norm_text(normalized(), mode)
    assert text.endswith(f"(batch_norm: {mode})")
    for network, lines in ((normalized(), 1), (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 0)):
        callbacks = [pruning(), JacobianSpectrum(examples=8, batch_norm=mode), Summary()]
        L.Trainer(**(PLAIN | {"callbacks": callbacks, "max_steps": 1})).fit(
            classifier(network), datamodule=MNISTSample()
        )
        assert capsys.readouterr().out.splitlines().count(text) == lines


def test_a_diagnosis_names_the_mode_of_batch_norm():
    diagnosis = diagnose(normalized(), None, torch.randn(20, 784), torch.arange(20) % 10)
    assert "Input-output Jacobian (batch_norm: batch): mean" in str(diagnosis)


@pytest.mark.parametrize(
    ("given", "correction"),
    [
        ({}, ApproximateIsometry),
        ({"criterion": ConnectionSensitivity()}, type(None)),
        ({"criterion": SynFlow()}, type(None)),
        ({"criterion": SynFlow(), "isometry": EOI()}, EOI),
        ({"criterion": SynFlow(), "isometry": ApproximateIsometry()}, ApproximateIsometry),
        ({"isometry": None}, type(None)),
    ],
    ids=["nothing", "connection sensitivity", "another criterion", "both", "both, the default", "isometry"],
)
def test_a_criterion_that_is_named_alone_is_not_corrected(given, correction):
    assert type(PruneAtInit(0.9, **given).isometry) is correction


def test_the_command_says_which_criterion_and_correction_it_used(caplog, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    given += ["--trainer.enable_progress_bar", "false", "--spectrum.examples", "2", "--test_after_fit", "false"]
    given += ["--trainer.limit_val_batches", "1", "--pruning.batches", "1"]
    given += ["--model.network.depth", "3", "--model.network.width", "20"]
    runs = [
        ([*QUICK, *given], "ConnectionSensitivity", ", corrected by ApproximateIsometry"),
        ([*QUICK, *given, "--pruning.criterion", "SNIP"], "SNIP", ""),
        (["--config", "lightning_logs/quickstart/version_1/config.yaml"], "SNIP", ""),
        ([*QUICK, *given, "--pruning.criterion", "SNIP", "--pruning.isometry.gain", "1"], "SNIP", ", corrected by .*"),
    ]
    for flags, criterion, correction in runs:
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["spl", "fit", *flags])
        with caplog.at_level(logging.INFO, logger="pytorch_lightning.utilities.rank_zero"):
            main()
        said = rf"Pruned at initialization by {criterion}: Masks\(.*\){correction}"
        assert len([record for record in caplog.records if re.fullmatch(said, record.message)]) == 1
