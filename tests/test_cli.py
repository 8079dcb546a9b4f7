"""The `spl` command as a user calls it: YAML, flags, folders, mistakes."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from spl import SparseClassifier
from spl.__main__ import main

CONFIGS = Path(__file__).parent.parent / "configs"
QUICK = ["--config", str(CONFIGS / "quickstart.yaml")]
SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
SHORT += ["--spectrum.examples", "50", "--pruning.batches", "4", "--pruning.isometry.max_iterations", "20"]


@pytest.fixture
def spl(monkeypatch, tmp_path):
    """Return a function that runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["spl", *map(str, args)])
        main()

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with one finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["spl", "fit", *QUICK, *SHORT])
        main()
    return folder / "lightning_logs" / "quickstart" / "version_0"


def refused(capsys, spl, match, *args):
    """Check that the command exits with 2 and one line that says what to do."""
    with pytest.raises(SystemExit) as stopped:
        spl(*args)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(match, error), error
    assert "Traceback" not in error


def test_a_run_leaves_config_record_checkpoints_and_picture(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {"config.yaml", "pruning.yaml", "spectra.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert any("tfevents" in name for name in files)


def test_the_test_set_is_evaluated_after_fit_unless_told_otherwise(finished, spl, capsys):
    spl("fit", *QUICK, *SHORT, "--trainer.limit_train_batches", 2)
    assert "accuracy/test" in capsys.readouterr().out
    spl("fit", *QUICK, *SHORT, "--trainer.limit_train_batches", 2, "--test_after_fit", "false")
    assert "accuracy/test" not in capsys.readouterr().out


def test_replaying_a_config_gives_the_same_weights_in_a_folder_of_its_own(finished, spl, tmp_path):
    spl("fit", "--config", finished / "config.yaml")
    again = tmp_path / "lightning_logs" / "quickstart" / "version_0"
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (finished, again))
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])
    first, second = (yaml.safe_load((run / "pruning.yaml").read_text()) for run in (finished, again))
    assert first == second


def test_a_second_run_gets_a_new_version(spl, tmp_path):
    for _ in range(2):
        spl("fit", *QUICK, *SHORT, "--trainer.limit_train_batches", 2)
    assert {p.name for p in (tmp_path / "lightning_logs" / "quickstart").iterdir()} == {"version_0", "version_1"}


def test_an_existing_run_is_never_overwritten(finished, spl, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    logger = {
        "class_path": "pytorch_lightning.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(finished.parent.parent), "name": "quickstart", "version": 0},
    }
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    refused(capsys, spl, "a run never overwrites another", "fit", *QUICK, *SHORT, "--config", "logger.yaml")
    assert before.items() <= {path: path.stat().st_mtime_ns for path in finished.rglob("*")}.items()


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_evaluated(finished, spl, capsys, command):
    spl(command, "--config", finished / "config.yaml", "--ckpt_path", finished / "checkpoints" / "last.ckpt")
    split = {"validate": "val", "test": "test"}[command]
    accuracy = float(re.search(rf"accuracy/{split}\s+│?\s*([\d.]+)", capsys.readouterr().out).group(1))
    assert accuracy > 0.5


def test_predictions_are_written_as_csv(finished, spl, capsys):
    spl("predict", "--config", finished / "config.yaml", "--ckpt_path", finished / "checkpoints" / "last.ckpt")
    path = Path(re.search(r"(\S+predictions\.csv)", capsys.readouterr().out).group(1))
    rows = path.read_text().splitlines()
    assert rows[0] == "example,predicted," + ",".join(f"p{k}" for k in range(10))
    assert len(rows) == 501
    model = SparseClassifier.load_from_checkpoint(finished / "checkpoints" / "last.ckpt")
    from spl.data import MNISTSample

    data = MNISTSample()
    data.setup()
    predicted = model(data.normalize(data.test.images)).argmax(-1).tolist()
    assert [int(row.split(",")[1]) for row in rows[1:]] == predicted


def test_a_run_is_resumed_by_its_checkpoint_alone(finished, spl, tmp_path):
    """The weights that the run started from may be gone."""
    last = finished / "checkpoints" / "last.ckpt"
    resumed = ["--ckpt_path", last, "--trainer.max_epochs", 2, "--model.pretrained", "gone.ckpt"]
    spl("fit", "--config", finished / "config.yaml", *resumed)
    run = tmp_path / "lightning_logs" / "quickstart" / "version_0"
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 82
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["pretrained"] == "gone.ckpt"
    masks = torch.load(last, weights_only=True)["masks"]
    assert all(torch.equal(checkpoint["masks"][name], mask) for name, mask in masks.items())


def test_a_checkpoint_of_the_command_stands_alone(finished):
    model = SparseClassifier.load_from_checkpoint(finished / "checkpoints" / "last.ckpt")
    assert model.masks.kept == 12940
    assert model.masks.revived(dict(model.network.named_parameters())) == {}


def test_every_parameter_is_explained(spl, capsys):
    with pytest.raises(SystemExit) as stopped:
        spl("fit", "--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for group in ("model", "pruning", "spectrum", "checkpoint"):
        assert f"--{group}." in text
    entries = re.split(r"\n  (?=--)", text)
    ours = [e for e in entries if re.match(r"--(model|pruning|spectrum|name|test_after_fit)[. ]", e)]
    assert len(ours) >= 20
    for entry in ours:
        explanation = re.sub(r"\(.*?\)|--\S+( \S+)?", "", " ".join(entry.split()))
        assert re.search(r"[a-z]{3,} [a-z]+", explanation), entry


def test_print_config_can_be_run(spl, capsys):
    with pytest.raises(SystemExit):
        spl("fit", *QUICK, *SHORT, "--print_config")
    printed = capsys.readouterr().out
    config = yaml.safe_load(printed)
    assert config["pruning"]["criterion"] is None
    assert config["pruning"]["isometry"]["class_path"] == "spl.isometry.DefaultIsometry"
    assert config["data"]["class_path"].endswith("MNISTSample")
    Path("printed.yaml").write_text(printed)
    spl("fit", "--config", "printed.yaml", "--trainer.limit_train_batches", 2)


# Mistakes


def test_short_class_names_and_their_arguments_work(spl):
    spl("fit", *QUICK, *SHORT, "--trainer.limit_train_batches", 2, "--pruning.criterion", "Random",
        "--pruning.criterion.seed", 3, "--pruning.isometry", "null", "--data", "MNISTSample")  # fmt: skip
    record = yaml.safe_load(Path("lightning_logs/quickstart/version_0/pruning.yaml").read_text())
    assert (record["criterion"], record["criterion_args"], record["isometry"]) == ("Random", {"seed": 3}, "none")


def test_scope_pattern_and_schedule_go_by_short_names(spl):
    spl("fit", *QUICK, *SHORT, "--trainer.limit_train_batches", 2, "--pruning.criterion", "Magnitude",
        "--pruning.scope", "ERK", "--pruning.pattern", "NM", "--pruning.pattern.n", 1, "--pruning.schedule",
        "Exponential", "--pruning.schedule.rounds", 3, "--pruning.sparsity", 0.75, "--pruning.isometry",
        "null")  # fmt: skip
    record = yaml.safe_load(Path("lightning_logs/quickstart/version_0/pruning.yaml").read_text())
    assert (record["scope"], record["pattern"], record["pattern_args"]) == ("ERK", "NM", {"n": 1, "m": 4})
    assert (record["schedule"], record["schedule_args"]) == ("Exponential", {"rounds": 3})
    spl("fit", "--config", "lightning_logs/quickstart/version_0/config.yaml")
    assert yaml.safe_load(Path("lightning_logs/quickstart/version_1/pruning.yaml").read_text()) == record


UNNAMED = ["--model.network", "MLP", "--model.network.depth", 2, "--model.network.width", 10, "--data", "MNISTSample"]
UNNAMED += [
    "--trainer.accelerator",
    "cpu",
    "--seed_everything",
    0,
    "--trainer.max_epochs",
    1,
    "--trainer.enable_progress_bar",
    "false",
]
UNNAMED += ["--trainer.limit_train_batches", 2, "--pruning.batches", 1, "--spectrum.examples", 4]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "MLP-ConnectionSensitivity+ApproximateIsometry-0.9"),
        (["--pruning.criterion", "SNIP", "--pruning.sparsity", 0.95], "MLP-SNIP-0.95"),
        (["--pruning.criterion", "SNIP", "--pruning.isometry", "OperatorIsometry"], "MLP-SNIP+OperatorIsometry-0.9"),
        (["--pruning.sparsity", 0], "MLP-dense"),
        (["--name", "mine"], "mine"),
        (["--config", "{name: mine/too}"], "mine/too"),
    ],
)
def test_a_run_is_named_by_network_method_and_sparsity_unless_it_has_a_name(flags, name, spl):
    spl("fit", *flags, *UNNAMED)
    (record,) = Path("lightning_logs").rglob("pruning.yaml")
    assert record.parent == Path("lightning_logs", name, "version_0")
    spl("fit", "--config", record.parent / "config.yaml")
    assert record.parent.with_name("version_1").is_dir()


def test_a_run_of_a_module_is_named_by_the_module(spl):
    module = "pytorch_lightning.demos.boring_classes.BoringModel"
    trainer = UNNAMED[UNNAMED.index("--trainer.accelerator") : UNNAMED.index("--pruning.batches")]
    spl("fit", "--model", module, *trainer, "--pruning.criterion", "Magnitude")
    assert Path("lightning_logs/BoringModel-Magnitude-0.9/version_0/pruning.yaml").is_file()


def test_densities_are_given_by_name_in_yaml(spl):
    scope = {"class_path": "GivenDensities", "init_args": {"densities": {"fc1.*": 0.01, "fc7.*": 0.5}}}
    Path("scope.yaml").write_text(yaml.safe_dump({"pruning": {"scope": scope}}))
    spl("fit", *QUICK, "--config", "scope.yaml", *SHORT, "--trainer.limit_train_batches", 2)
    record = yaml.safe_load(Path("lightning_logs/quickstart/version_0/pruning.yaml").read_text())
    assert record["scope_args"] == {"densities": {"fc1.*": 0.01, "fc7.*": 0.5}}


def test_an_unknown_flag_is_named(spl, capsys):
    refused(capsys, spl, "sparsty", "fit", *QUICK, "--pruning.sparsty", "0.5")


def test_a_sparsity_out_of_range_is_refused(spl, capsys):
    refused(capsys, spl, r"sparsity must lie in \[0, 1\), got 1\.5", "fit", *QUICK, "--pruning.sparsity", "1.5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--pruning.isometry", "EOI", "--pruning.isometry.gain", "-1"],
            r"spl: error: gain must be positive, got -1\.0\.$",
        ),
        (["--pruning.isometry.max_iterations", "0"], r"spl: error: max_iterations must be at least 1, got 0\.$"),
        (["--pruning.schedule", "Linear", "--pruning.schedule.rounds", "0"], "spl: error: rounds must be at least 1"),
        (["--pruning.pattern", "NM"], r"spl: error: 2:4 keeps 2 of every 4 weights, .*: set sparsity to 0\.5\.$"),
        (["--pruning.minimum", "5000"], "spl: error: 12940 of 129400 weights are to be kept, but"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_in_one_line(spl, capsys, flags, message):
    """The first three are arguments of options that may be null; the parser wraps their errors in its own."""
    refused(capsys, spl, message, "fit", *QUICK, *flags)


def test_a_missing_config_is_named(spl, capsys):
    refused(capsys, spl, r"nowhere\.yaml", "fit", "--config", "nowhere.yaml")


def test_a_missing_checkpoint_is_named_before_anything_runs(spl, capsys):
    refused(capsys, spl, r"There is no checkpoint gone\.ckpt", "fit", *QUICK, "--ckpt_path", "gone.ckpt")
    assert not Path("lightning_logs").exists()


def test_missing_data_name_folder_files_and_the_way_out(spl, capsys):
    refused(capsys, spl, r"none/MNIST/raw: train-images-idx3-ubyte, .*--data MNISTSample", "fit", *QUICK, "--data",
            "spl.data.MNIST", "--data.root", "none", "--data.download", "false")  # fmt: skip


def test_images_of_another_size_say_what_to_set(spl, capsys):
    refused(capsys, spl, "set in_features=784", "fit", *QUICK, *SHORT, "--model.network.in_features", 100)


def test_a_bad_activation_is_refused(spl, capsys):
    refused(capsys, spl, "sigmoid", "fit", *QUICK, "--model.network.activation", "sigmoid")


def test_a_pattern_that_matches_nothing_is_refused(spl, capsys):
    refused(capsys, spl, "matches none of the parameters", "fit", *QUICK, "--pruning.exclude", "[fc9.*]")
