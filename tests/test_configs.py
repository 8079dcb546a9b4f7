"""Every YAML runs, and says how."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from spl.cli import main

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "pruning:" in path.read_text())
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "3", "--trainer.enable_progress_bar", "false"]
SHORT += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", "--spectrum.examples", "20"]
SHORT += ["--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "3", "--pruning.batches", "2"]


def run(monkeypatch, path, *more):
    config = yaml.safe_load(path.read_text())
    options = [*SHORT, *more]
    if "mnist.yaml" in config["data"]:
        root = os.environ.get("SPL_DATA")
        options += ["--data.root", root] if root else ["--data", "spl.data.MNISTSample"]
    if config["pruning"].get("isometry", "default") is not None:
        options += ["--pruning.isometry.max_iterations", "5"]
    monkeypatch.setattr(sys, "argv", ["spl", "fit", "--config", str(path), *options])
    main()
    return yaml.safe_load(Path("lightning_logs", config["name"], "version_0", "pruning.yaml").read_text())


@pytest.mark.filterwarnings("ignore:.*Discarding init_args")
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if path.stem.endswith("_magnitude"):
        run(monkeypatch, path.with_stem(path.stem.replace("_magnitude", "_dense")))
    record = run(monkeypatch, path)
    asked = yaml.safe_load(path.read_text())["pruning"]["sparsity"]
    assert record["kept"] == round(record["weights"] * (1 - asked))
    expected = {"magnitude": "Magnitude", "random": "Random"}.get(path.stem.rpartition("_")[2], "ConnectionSensitivity")
    assert record["criterion"] == expected
    assert record["isometry"] == (
        "none" if path.stem.rpartition("_")[2] not in ("ai", "quickstart") else "ApproximateIsometry"
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_its_command(path):
    header = path.read_text().split("name:")[0]
    assert f"spl fit --config {path.relative_to(ROOT)}" in header
    assert all(line.startswith("#") for line in header.splitlines())


def test_figure_2_is_complete():
    names = {path.stem for path in EXPERIMENTS}
    methods = ("dense", "random", "magnitude", "cs", "cs_ai")
    wanted = {f"{a}_{i}_{m}" for a in ("linear", "tanh") for i in ("ldi", "vs") for m in methods}
    assert wanted <= names
