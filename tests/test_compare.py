"""`spl compare`: methods × sparsities × seeds, as a user calls it."""

import csv
import json
import re
import statistics
from pathlib import Path

import pytest
import torch
from forking import python
from matplotlib.image import imread
from synthetic_results import finish

from spl.__main__ import main
from spl.compare import command
from spl.compare.comparison import RUNS, Comparison, Measured
from spl.compare.naming import method_named
from spl.compare.report import markdown, write_report
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.reproduction import executors, page_parts
from spl.reproduction.executors import LocalProcesses
from spl.reproduction.results import Results
from spl.reproduction.run import RUN_FILE, digest_of
from spl.reproduction.session import alone

NETWORK = ["--model.network", "spl.networks.MLP", "--model.network.depth", "3", "--model.network.width", "10"]
TINY = [
    *NETWORK, "--data", "MNISTSample", "--name", "tiny", "--pruning.batches", "1", "--spectrum.examples", "2",
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
    "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page_parts, "_DPI", 50)  # of pictures: fewer pixels take less time
    return tmp_path


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes of jobs, and look at them often."""
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    monkeypatch.setattr(executors, "_POLL", 0.05)


def compared(*methods, flags=TINY, sparsities=(0.9,), seeds=2):
    return Comparison.of(flags, [method_named(name) for name in methods], sparsities, seeds)


def digests(*methods, **given):
    return [run.digest for run in compared(*methods, **given).all_runs]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "criterion", "correction", "scope"),
    [
        ("SNIP", "spl.criteria.SNIP", None, None),
        ("CS+AI", "spl.criteria.ConnectionSensitivity", "spl.isometry.ApproximateIsometry", None),
        ("Random@ERK", "spl.criteria.Random", None, "spl.pruning.scopes.ERK"),
        ("PHEW+EOI@Uniform", "spl.criteria.PHEW", "spl.isometry.EOI", "spl.pruning.scopes.Uniform"),
        ("foreign_parts.Largest+OperatorIsometry", "foreign_parts.Largest", "spl.isometry.OperatorIsometry", None),
        ("dense", None, None, None),
    ],
)
def test_a_method_is_a_criterion_with_a_correction_and_a_scope(name, criterion, correction, scope):
    method = method_named(name)
    assert (method.label, method.criterion, method.correction, method.scope) == (name, criterion, correction, scope)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Synflow", "There is no criterion Synflow. Did you mean SynFlow?"),
        ("zzz", "There is no criterion zzz. There are .*NTKSAP, .*CS, LTH, .* A method is NAME"),
        ("SNIP+eoi", "There is no correction eoi. Did you mean EOI?"),
        ("SNIP@erk", "There is no scope erk. Did you mean ERK?"),
        ("Criterion", "There is no criterion Criterion"),
        ("SNIP+", "'SNIP[+]' is no method"),
        ("dense+AI", "'dense[+]AI' is no method"),
        ("@ERK", "'@ERK' is no method"),
        ("foreign_parts.Nobody", "foreign_parts.Nobody cannot be imported"),
        ("nowhere.Mine", "No module named 'nowhere'"),
        (
            "foreign_parts.Branching",
            "foreign_parts.Branching is no criterion: derive the class from spl.criteria.criterion.Criterion",
        ),
    ],
)
def test_a_method_that_does_not_exist_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        method_named(name)


def test_masks_that_move_start_at_random_by_erk_or_dense_unless_something_else_is_asked_for():
    flags = [*TINY, "--moving.update", "RigL", "--moving.update.every", "7"]
    methods = ("RigL", "SET+AI@Uniform", "GMP", "GMP@ERK", "SNIP", "dense")
    rigl, sets, gmp, erk, snip, dense = (
        run.config for run in compared(*methods, flags=flags, sparsities=[0.95], seeds=1).all_runs
    )
    for config, scope, isometry in ((rigl, "ERK", None), (sets, "Uniform", "spl.isometry.ApproximateIsometry")):
        assert config["pruning"]["criterion"]["class_path"] == "spl.criteria.Random"
        assert config["pruning"]["scope"]["class_path"] == f"spl.pruning.scopes.{scope}"
        assert config["pruning"]["sparsity"] == 0.95
        assert (config["pruning"]["isometry"] or {}).get("class_path") == isometry
    assert rigl["moving"]["update"]["init_args"]["every"] == 7
    assert sets["moving"]["update"]["class_path"] == "spl.updates.SET"
    assert sets["moving"]["update"]["init_args"] == {"every": 7, "fraction": 0.3, "until": 1.0}
    assert gmp["moving"]["update"]["init_args"]["every"] == 7  # when masks move is the same for all of them
    for config, scope in ((gmp, "Global"), (erk, "ERK")):
        assert config["pruning"]["sparsity"] == 0.0
        assert config["moving"]["update"]["init_args"]["sparsity"] == 0.95
        assert config["moving"]["update"]["init_args"]["scope"]["class_path"] == f"spl.pruning.scopes.{scope}"
    assert "moving" not in snip
    assert "moving" not in dense
    with pytest.raises(InputError, match=r"'GMP[+]AI' is no method: GMP begins with the dense network"):
        method_named("GMP+AI")


def test_an_update_shares_with_others_when_masks_move_and_nothing_else():
    flags = [*TINY, "--moving.update", "SET", "--moving.update.fraction", "0.5", "--moving.update.until", "0.6"]
    rigl, sets = (run.config["moving"]["update"] for run in compared("RigL", "SET", flags=flags, seeds=1).all_runs)
    assert rigl["init_args"] == {"every": 100, "fraction": 0.3, "until": 0.6}
    assert sets["init_args"] == {"every": 100, "fraction": 0.5, "until": 0.6}
    plain, same = (compared("RigL", flags=[*TINY, *words], seeds=1) for words in ([], ["--moving.update", "SET"]))
    assert plain.all_runs[0].digest == same.all_runs[0].digest  # defaults of SET are not shared


@pytest.mark.usefixtures("forked")
def test_masks_that_moved_have_the_sparsity_in_the_end(folder):
    words = ["--methods", "RigL", "GMP", "--sparsity", "0.9", "--seeds", "1", "--jobs", "1", *TINY]
    words += ["--trainer.limit_train_batches", "6", "--moving.update", "GMP", "--moving.update.every", "2"]
    main(["compare", *words])
    for file in RUNS.glob("tiny_*_90_seed0/version_0/checkpoints/last.ckpt"):
        checkpoint = torch.load(file, weights_only=True)
        masks = Masks(checkpoint["masks"])
        assert masks.kept == round(0.1 * masks.size)
        assert all(not checkpoint["state_dict"][f"network.{name}"][~mask].any() for name, mask in masks.items())
    assert len(list(RUNS.glob("tiny_*_90_seed0"))) == 2


def test_each_method_has_a_run_for_each_sparsity_and_seed_and_dense_for_each_seed():
    runs = compared("SNIP", "CS+AI", "dense", sparsities=[0.95, 0.9], seeds=2).all_runs
    assert [run.name for run in runs] == [
        *(f"tiny_{label}_{at}_seed{seed}" for label in ("SNIP", "CS+AI") for at in (90, 95) for seed in (0, 1)),
        "tiny_dense_0_seed0",
        "tiny_dense_0_seed1",
    ]
    assert [run.config["pruning"]["sparsity"] for run in runs] == [0.9, 0.9, 0.95, 0.95] * 2 + [0.0] * 2
    snip, ai = runs[0].config["pruning"], runs[4].config["pruning"]
    assert snip["isometry"] is None
    assert ai["isometry"]["class_path"] == "spl.isometry.ApproximateIsometry"
    assert {run.config["pruning"]["batches"] for run in runs[:8]} == {1}
    assert runs[0].steps == 2


def test_seeds_and_sparsity_begin_where_the_configuration_says():
    flags = [*TINY, "--seed_everything", "5", "--pruning.sparsity", "0.7"]
    runs = compared("SNIP", flags=flags, sparsities=()).all_runs
    assert [(run.config["seed_everything"], run.config["pruning"]["sparsity"]) for run in runs] == [(5, 0.7), (6, 0.7)]


def test_arguments_that_the_configuration_has_for_the_class_of_a_method_are_kept():
    gain = ["--pruning.isometry.gain", "1"]
    ai, plain = compared("CS+AI", "CS", flags=[*TINY, *gain], seeds=1).all_runs
    assert ai.config["pruning"]["isometry"]["init_args"]["gain"] == 1
    assert plain.config["pruning"]["isometry"] is None
    own = ["--pruning.criterion", "foreign_parts.Largest", "--pruning.criterion.factor", "3"]
    largest, snip = compared("foreign_parts.Largest", "SNIP", flags=[*TINY, *own], seeds=1).all_runs
    assert largest.config["pruning"]["criterion"] == {"class_path": "foreign_parts.Largest", "init_args": {"factor": 3}}
    assert "init_args" not in snip.config["pruning"]["criterion"]


@pytest.mark.parametrize("name", ["ShuffledInLayers", "SNIP@GivenDensities"])
def test_a_class_that_needs_arguments_takes_them_from_the_configuration_alone(name):
    with pytest.raises(InputError, match=r"cannot be made without (criterion|densities): give"):
        compared(name).all_runs  # noqa: B018
    flags = ["--pruning.criterion", "ShuffledInLayers", "--pruning.criterion.criterion", "Magnitude"]
    flags += ["--pruning.scope", "GivenDensities", "--pruning.scope.densities", "{fc1: 0.1}"]
    assert compared(name, flags=[*TINY, *flags]).all_runs


def test_the_same_fit_has_the_same_digest_however_it_is_asked_for(folder):
    wanted = digests("SNIP", "CS+AI", "dense")
    assert digests("SNIP", "CS+AI", "dense", flags=[*TINY, "--name", "other"]) == wanted
    explicit = ["--trainer.gradient_clip_val", "null", "--pruning.scope", "Global", "--trainer.devices", "1"]
    assert digests("SNIP", "CS+AI", "dense", flags=[*TINY, *explicit]) == wanted
    (folder / "tiny.yaml").write_text(json.dumps({"trainer": {"max_epochs": 1}, "pruning": {"batches": 1}}))
    assert digests("SNIP", "CS+AI", "dense", flags=["--config", "tiny.yaml", *TINY]) == wanted
    assert digests("spl.criteria.SNIP")[:2] == wanted[:2]
    assert digests("dense", flags=[*TINY, "--pruning.scope", "ERK"]) == wanted[4:]
    assert (
        len({*wanted, *digests("SNIP@ERK", "CS", "Random", "CS+EOI", flags=[*TINY, "--trainer.max_epochs", "2"])}) == 14
    )


def test_where_data_lie_is_not_in_the_digest_and_is_kept_for_the_run(folder):
    mnist = [*NETWORK, "--data", "MNIST"]
    here, there = (compared("SNIP", flags=[*mnist, "--data.root", root]).all_runs[0] for root in ("a", "b"))
    assert here.digest == there.digest
    (folder / RUN_FILE).write_text(json.dumps(there.on_machine(None, None)))
    assert digest_of(folder / RUN_FILE) == there.digest
    assert there.data(None) == [{"class_path": "spl.data.MNIST", "init_args": there.config["data"]["init_args"]}]
    assert there.data(None)[0]["init_args"]["root"] == "b"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.logger", "false"], "does not take trainer.logger"),
        (["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"], "does not take trainer.logger"),
        (["--trainer.default_root_dir", "else"], "does not take trainer.default_root_dir: all runs lie"),
        (["--model.pretrained", "last.ckpt"], "does not take model.pretrained: every run"),
        (["--ckpt_path", "last.ckpt"], "does not take ckpt_path"),
        (["--trainer.devices", "2"], "trainer.devices is 2, and a comparison makes each run on one device"),
        (["--trainer.fast_dev_run", "true"], "does not take trainer.fast_dev_run"),
    ],
)
def test_options_that_a_comparison_cannot_use_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        compared("SNIP", flags=[*TINY, *flags])


def test_what_is_not_possible_is_one_line(capsys):
    methods = ["--methods", "SNIP"]
    assert "There is no criterion Snop. Did you mean SNIP?" in refused(capsys, *TINY, "--methods", "Snop")
    assert "sparsity must lie in [0, 1), got 90" in refused(capsys, *TINY, *methods, "--sparsity", "90")
    assert "seeds must be at least 1, got 0" in refused(capsys, *TINY, *methods, "--seeds", "0")
    assert "jobs must be at least 1, got 0" in refused(capsys, *TINY, *methods, "--jobs", "0")
    assert "--methods" in refused(capsys, *TINY)
    assert "--trainer.epochs" in refused(capsys, *TINY, *methods, "--trainer.epochs", "3")
    with alone(RUNS, "spl compare"):
        assert "Another `spl compare` is making runs in" in refused(capsys, *TINY, *methods)


def test_a_dry_run_lists_runs_and_time_and_makes_nothing(folder, capsys):
    main(["compare", *TINY, "--methods", "SNIP", "dense", "--sparsity", "0.9", "0.95", "--dry-run", "--jobs", "2"])
    said = capsys.readouterr().out
    assert len(re.findall(r"^tiny_SNIP_9[05]_seed[012] +2 ", said, re.MULTILINE)) == 6
    assert re.search(r"9 runs are missing: about \d+ s with 2 processes\.", said)
    assert not list(folder.iterdir())


def table_of(page, title):
    """Return the cells of the table below a title, by method and column."""
    lines = page.split(f"## {title}")[1].split("\n\n")[1].splitlines()
    header, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row[0], column): cell for row in body for column, cell in zip(header[1:], row[1:], strict=True)}


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_one_command_makes_runs_tables_numbers_and_figures_and_goes_on_without_repeating(folder, capsys):
    words = [
        "--methods",
        "SNIP",
        "foreign_parts.Largest",
        "foreign_parts.Broken",
        "dense",
        "--seeds",
        "2",
        "--jobs",
        "1",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *TINY, *words, "--sparsity", "0.5"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert f"Tables, figures and numbers: {Path('comparison', 'tiny', 'README.md')}" in said.out
    assert "2 runs failed" in said.err
    (log,) = {Path(path) for path in re.findall(r"tiny_foreign_parts.Broken_50_seed[01]: (\S+)", said.err)}
    assert "no scores today" in log.read_text()
    finished = {path: path.stat().st_mtime_ns for path in RUNS.rglob("result.json")}
    assert len(finished) == 6
    assert {result.record["population"] for result in Results(RUNS).values()} == {6}

    with pytest.raises(SystemExit):
        main(["compare", *TINY, *words, "--sparsity", "0.5", "0.9", "--output", "there"])
    results = {path: path.stat().st_mtime_ns for path in RUNS.rglob("result.json")}
    assert len(results) == 10
    assert finished.items() <= results.items()

    page = Path("there", "README.md").read_text()
    assert "10 of 14 runs finished: MLP on MNISTSample, 2 iterations × 100, 2 seeds" in page
    assert "4 runs failed; their logs say why" in page
    with Path("there", "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10
    accuracies, losses, signals = (
        table_of(page, title) for title in ("Test accuracy in %", "Training loss", "Mean Jacobian singular value")
    )
    for method, sparsity in (("SNIP", 0.5), ("SNIP", 0.9), ("foreign_parts.Largest", 0.9), ("dense", 0.0)):
        own = [row for row in rows if (row["method"], float(row["sparsity"])) == (method, sparsity)]
        assert [row["seed"] for row in own] == ["0", "1"]
        contents = [json.loads(Path(row["folder"], "result.json").read_text()) for row in own]
        shares = [100 * content["test"]["final"]["accuracy"] for content in contents]
        assert [float(row["accuracy"]) for row in own] == pytest.approx(shares, rel=1e-5)
        cell = f"{statistics.mean(shares):.2f} ± {statistics.stdev(shares):.2f} (n = 2)"
        assert accuracies[method, f"{100 * sparsity:g} %"] == cell
        stage = "pruned" if sparsity else "dense"
        starts = [content["scalars"][f"jacobian/{stage}/mean"][-1][1] for content in contents]
        assert signals[method, f"{100 * sparsity:g} %"].startswith(f"{statistics.mean(starts):.3g} ± ")
        ends = [content["scalars"]["loss/train"][-1][1] for content in contents]
        assert losses[method, f"{100 * sparsity:g} %"].startswith(f"{statistics.mean(ends):.3g} ± ")
    assert accuracies["foreign_parts.Broken", "90 %"] == "— (n = 0)"
    assert accuracies["dense", "90 %"] == ""
    for name in ("accuracy", "jsv", "loss"):
        for place in (Path("there"), Path("comparison", "tiny")):
            assert imread(place / f"{name}.png")[..., :3].std() > 0.05  # neither empty nor uniform
            assert "<svg" in (place / f"{name}.svg").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_network_of_which_a_stack_cannot_be_trained_is_trained_alone(capsys):
    flags = [*TINY[len(NETWORK) :], "--model.network", "foreign_parts.Branching"]
    main(["compare", *flags, "--methods", "SNIP", "dense", "--seeds", "2", "--sparsity", "0.5", "--jobs", "1"])
    assert [result.record["population"] for result in Results(RUNS).values()] == [1] * 4
    (log,) = RUNS.rglob("*.log")
    assert "These networks cannot train together: each is trained alone instead." in log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_an_interrupted_comparison_goes_on_by_the_same_command(monkeypatch, capsys):
    class Stopping(LocalProcesses):
        def run(self, files):
            jobs = super().run(files)
            try:
                for ended in jobs:
                    yield ended
                    if any(RUNS.rglob("result.json")):
                        raise KeyboardInterrupt
            finally:
                jobs.close()

    words = ["compare", *TINY, "--trainer.max_epochs", "3", "--methods", "SNIP", "--seeds", "3", "--jobs", "1"]
    monkeypatch.setattr(command, "LocalProcesses", Stopping)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert "Finished runs are kept; the same command continues." in capsys.readouterr().err
    finished = {path: path.stat().st_mtime_ns for path in RUNS.rglob("result.json")}
    assert finished
    monkeypatch.setattr(command, "LocalProcesses", LocalProcesses)
    main(words)
    results = {path: path.stat().st_mtime_ns for path in RUNS.rglob("result.json")}
    assert finished.items() <= results.items()
    assert len(Results(RUNS)) == 3


def measured(*methods, sparsities=(0.9, 0.95), seeds=2):
    wanted = compared(*methods, sparsities=sparsities, seeds=seeds)
    return wanted, lambda: Measured(wanted, Results(RUNS))


def test_a_diverged_run_counts_and_is_shown():
    wanted, found = measured("SNIP", "dense")
    nan, good = {"loss/train": float("nan")}, {"loss/train": 0.5, "jacobian/pruned/mean": 0.1, "jacobian/dense/mean": 1}
    for run in wanted.all_runs:
        bad = run is wanted.all_runs[0]
        finish(RUNS, run, final=90.0 if bad else 10.0, scalars=nan if bad else good)
    page = markdown(found(), ["--methods", "SNIP"], [])
    cells = table_of(page, "Test accuracy in %")
    assert cells["SNIP", "90 %"] == "50.00 ± 56.57 (n = 2, 1 diverged)"
    assert cells["SNIP", "95 %"] == "90.00 ± 0.00 (n = 2)"
    write_report(found(), Path("out"), [])
    height, width, _ = imread(Path("out", "accuracy.png")).shape
    assert 1.3 < width / height < 2.5  # the line below the figure does not widen it
    assert [row.split(",")[9] for row in Path("out", "runs.csv").read_text().splitlines()[1:]] == ["yes", *["no"] * 5]


@pytest.mark.parametrize(
    ("sparsities", "signal"), [((0.9,), 0.0), ((0.9, 0.95), float("inf")), ((0.1, 0.5, 0.95, 0.96), 0.0)]
)
def test_a_report_is_written_whatever_was_measured(sparsities, signal):
    wanted, found = measured("SNIP", "Random@ERK", "dense", sparsities=sparsities, seeds=1)
    write_report(found(), Path("empty"), [])
    for run in wanted.all_runs[1:]:
        finish(RUNS, run, scalars={"jacobian/pruned/mean": signal, "loss/train": 1.0})
    write_report(found(), Path("full"), [])
    for name in ("accuracy", "jsv", "loss"):
        assert Path("empty", f"{name}.png").is_file()
        assert Path("full", f"{name}.svg").is_file()
    assert f"{len(wanted.all_runs) - 1} of {len(wanted.all_runs)} runs finished" in Path("full/README.md").read_text()


def test_the_command_is_listed(capsys):
    main(["--help"])
    assert "\n  compare " in capsys.readouterr().out
