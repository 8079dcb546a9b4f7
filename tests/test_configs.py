"""Every YAML file runs, and its comment gives the command."""

import os
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from spl.__main__ import main
from spl.data import CIFAR10, MNIST, images

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path for path in CONFIGS.rglob("*.yaml") if "\nname:" in path.read_text())
SCHEDULES = sorted((CONFIGS / "cifar10").glob("*_schedule.yaml"))
OPTIONS = sorted((CONFIGS / "options").glob("*.yaml"))
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
SHORT += ["--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2", "--spectrum.examples", "5"]
SHORT += ["--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "2", "--pruning.batches", "2"]
METHODS = ("dense", "random", "magnitude", "cs", "cs_ai")
FITTED = (  # with these, each network, initializer and method is fitted
    *(
        f"{one}_{method}"
        for one in ("resnet20", "tanh_ldi")
        for method in ("dense", "random", "magnitude", "cs", "cs_ai")
    ),
    *("resnet32_cs_ai", "resnet56_random", "resnet110_cs", "wrn16_6_cs_ai", "vgg16_cs", "resnet20_cs_operator"),
    *("linear_ldi_dense", "linear_vs_cs_ai", "tanh_vs_random"),
    *("sculpt_fewer_wider", "sculpt_larger_blocks", "sculpt_wider", "quickstart"),
)


@pytest.fixture(scope="module", autouse=True)
def made_once():
    """Read images once instead of once per test, and compile without inductor: neither is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
        for data in (CIFAR10, MNIST):
            patch.setattr(data, "_read", _once(data._read))
        yield


def _once(read):
    """Return `read` with its result cached."""
    kept = {}

    def kept_or_read(data):
        if data.root not in kept:
            kept[data.root] = read(data)
        return kept[data.root]

    return kept_or_read


def run(monkeypatch, path, overlay=None):
    """Fit for two steps; convolutional networks are narrow and shallow, and batches are small."""
    config = yaml.safe_load(path.read_text())
    options = [*SHORT]
    root = os.environ.get("SPL_DATA")
    if "cifar10.yaml" in config["data"]:
        monkeypatch.setattr(images, "_EVALUATION_BATCH", 8)
        options += ["--data.batch_size", "8", "--model.network.init_args.width_multiplier", "0.25"]
        if "resnet" in str(config["model"]["network"]):
            options += ["--model.network.init_args.blocks_per_stage", "1"]
        if not root:
            options += ["--data", "spl.data.MNISTSample", "--model.network.init_args.in_channels", "1"]
    elif "mnist.yaml" in config["data"] and not root:
        options += ["--data", "spl.data.MNISTSample"]
    if root and "sample" not in config["data"]:
        options += ["--data.root", root]
    if config["pruning"].get("isometry", "default") is not None:
        options += ["--pruning.isometry.max_iterations", "5"]
    overlays = ["--config", str(overlay)] if overlay else []
    monkeypatch.setattr(sys, "argv", ["spl", "fit", "--config", str(path), *overlays, *options])
    main()
    return yaml.safe_load(Path("lightning_logs", config["name"], "version_0", "pruning.yaml").read_text())


def correction_of(path, asked):
    """Return the class of the correction that an experiment names, directly or in a file of its own."""
    isometry = asked.get("isometry", "spl.isometry.ApproximateIsometry") or "none"
    if isometry.endswith(".yaml"):
        isometry = yaml.safe_load((path.parent / isometry).read_text())["class_path"]
    return isometry.rpartition(".")[2]


@pytest.mark.filterwarnings("ignore:.*Discarding init_args", "ignore:Signals vanish")
@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.stem in FITTED], ids=lambda path: path.stem)
def test_an_experiment_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if path.stem.endswith("_magnitude"):
        run(monkeypatch, path.with_stem(path.stem.replace("_magnitude", "_dense")))
    record = run(monkeypatch, path)
    asked = yaml.safe_load(path.read_text())["pruning"]
    assert record["kept"] == round(record["weights"] * (1 - asked["sparsity"]))
    assert record["criterion"] == asked.get("criterion", "spl.criteria.ConnectionSensitivity").rpartition(".")[2]
    assert record["isometry"] == correction_of(path, asked)


def parts(value, place=""):
    """Yield each setting of an experiment with its place, apart from the name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from parts(item, f"{place}.{key}")
    elif place != ".name":
        yield place, repr(value)


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.stem not in FITTED], ids=lambda path: path.stem)
def test_an_experiment_combines_what_others_run_with(path):
    run_with = {part for fitted in EXPERIMENTS if fitted.stem in FITTED for part in parts(_read(fitted))}
    config = _read(path)
    assert config["name"] == path.stem
    if path.stem.endswith("_magnitude"):
        dense = path.stem.replace("_magnitude", "_dense")
        assert config["model"].pop("pretrained") == f"lightning_logs/{dense}/version_0/checkpoints/last.ckpt"
    assert set(parts(config)) <= run_with


def test_the_experiments_that_run_exist():
    assert set(FITTED) <= {path.stem for path in EXPERIMENTS}


def _read(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.filterwarnings("ignore:.*Discarding init_args", "ignore:Signals vanish")
@pytest.mark.parametrize("overlay", [*SCHEDULES, *OPTIONS], ids=lambda path: path.stem)
def test_an_overlay_runs(overlay, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, CONFIGS / "cifar10" / "resnet20_cs_ai.yaml", overlay)
    merged = yaml.safe_load(Path("lightning_logs/resnet20_cs_ai/version_0/config.yaml").read_text())
    torch.use_deterministic_algorithms(False)

    def leaves(tree, found):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, found[key])
            else:
                yield key, value, found[key]

    for key, wanted, found in leaves(yaml.safe_load(overlay.read_text()), merged):
        assert key in ("max_steps", "examples", "batches") or found == wanted, key  # the test shortens these


@pytest.mark.parametrize(
    "path", sorted((ROOT / "lightning_logs/reference").glob("*/config.yaml")), ids=lambda path: path.parent.name
)
def test_the_configuration_of_a_reference_run_can_be_run(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spl", "fit", "--config", str(path), "--print_config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0)
    assert yaml.safe_load(capsys.readouterr().out)["name"].endswith(path.parent.name)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_its_command(path):
    header = path.read_text().split("name:")[0]
    assert f"spl fit --config {path.relative_to(ROOT)}" in header
    assert all(line.startswith("#") for line in header.splitlines())


def test_the_methods_of_an_experiment_are_what_their_names_say():
    for path in EXPERIMENTS:
        asked = yaml.safe_load(path.read_text())["pruning"]
        criterion = asked.get("criterion", "spl.criteria.ConnectionSensitivity").rpartition(".")[2]
        method = next((m for m in sorted(METHODS, key=len, reverse=True) if path.stem.endswith(f"_{m}")), None)
        if method is not None:
            assert (asked["sparsity"] == 0) == (method == "dense"), path
            assert (correction_of(path, asked) == "ApproximateIsometry") == (method == "cs_ai"), path
        if method in ("random", "magnitude"):
            assert criterion == method.capitalize(), path
        if method in ("cs", "cs_ai"):
            assert criterion == "ConnectionSensitivity", path


def test_figures_2_and_8_and_table_2_are_complete():
    names = {path.stem for path in EXPERIMENTS}
    figure_2 = {f"{a}_{i}_{m}" for a in ("linear", "tanh") for i in ("ldi", "vs") for m in METHODS}
    networks = ("vgg16", "resnet20", "resnet32", "resnet56", "resnet110", "wrn16_6")
    assert figure_2 | {f"{n}_{m}" for n in networks for m in METHODS} <= names
