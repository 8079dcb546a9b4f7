"""Runs that are really made by processes, alone and together, also when one fails or is stopped."""

import json
import subprocess
from dataclasses import replace

import pytest
import yaml
from forking import python

from spl.reproduction import executors
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.execution import execute, missing
from spl.reproduction.executors import LocalProcesses
from spl.reproduction.methods import LDI_CS, LDI_CS_AI, LDI_MAG, LDI_RAND, Experiment, mlp
from spl.reproduction.results import Results
from spl.reproduction.run import RUN_FILE, RUNS, Run

SMOKE = BUDGETS["smoke"]
MLP3 = Experiment(mlp("tanh", depth=3))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty folder; processes of jobs are forked, and looked at often."""
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    monkeypatch.setattr(executors, "_POLL", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(failures):
    return [failure.run.name for failure in failures]


def broken(run: Run) -> Run:
    """Return the same run with an invalid sparsity."""
    return Run("broken", dict(run.config) | {"pruning": dict(run.config["pruning"]) | {"sparsity": 2.0}})


@pytest.mark.slow
def test_runs_are_made_once_and_one_that_fails_stops_none(folder, spl_data):
    good = [MLP3.run(SMOKE, method, seed) for method in (LDI_CS, LDI_CS_AI) for seed in (0, 1)]
    good.append(MLP3.run(SMOKE, LDI_MAG, 0))
    untrained = replace(MLP3, trained=False).run(SMOKE, LDI_RAND, 0)
    bad = broken(good[0])
    heir = Run("heir", good[-1].config, pretrained=bad)
    failures = execute([*good, untrained, bad, heir], RUNS, spl_data, LocalProcesses(2))
    assert sorted(names(failures)) == ["broken", "heir"]
    by_name = {failure.run.name: failure for failure in failures}
    assert "sparsity must lie in [0, 1), got 2.0" in by_name["broken"].log.read_text()
    assert by_name["heir"].log is None

    results = Results(RUNS)
    assert missing([*good, untrained], results) == []
    assert len(results) == 7  # one is the dense network that LDI-Mag starts from
    together = [result.record["population"] for result in results.of([*good, untrained])]
    assert together == [5, 5, 5, 5, 1, 1]  # the dense network is the fifth
    for result in results.of(good):
        assert 0 < result.error() <= 100
        assert result.series("loss/train")[0].tolist() == [3, 7, 11, 15, 19]
        assert result.layer_sparsity().keys() == {"fc1", "fc2", "fc3"}
        assert {layer: mask.shape for layer, mask in result.masks().items()} == {
            "fc1": (100, 784),
            "fc2": (100, 100),
            "fc3": (10, 100),
        }
    masks, sparsity = results.of(good)[0].masks(), results.of(good)[0].layer_sparsity()
    assert {layer: 1 - mask.mean() for layer, mask in masks.items()} == pytest.approx(sparsity)
    assert sum(counts.sum() for _, counts in results.of(good)[0].saliency().values()) > 0
    assert results[untrained.digest].test == {}

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    execute(good, RUNS, spl_data, LocalProcesses(2))
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


@pytest.mark.slow
def test_a_run_can_be_repeated_by_hand(folder, spl_data):
    run = MLP3.run(SMOKE, LDI_CS, 0)
    execute([run], RUNS, spl_data, LocalProcesses(1))
    result = Results(RUNS)[run.digest]
    command = [*python(), "-m", "spl", "fit", "--config", str(result.folder / RUN_FILE)]
    subprocess.run(command, check=True, capture_output=True)
    again = result.folder.parent / "version_1"
    masks = [yaml.safe_load((at / "pruning.yaml").read_text())["masks_sha256"] for at in (result.folder, again)]
    assert masks[0] == masks[1]


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False], ids=["stacked", "alone"])
def test_a_run_that_was_stopped_goes_on_where_it_was(folder, spl_data, monkeypatch, together):
    """The process is interrupted after the first epoch; another run waits in it and is not started."""
    run, later = _long(MLP3.run(SMOKE, LDI_CS, 0)), replace(MLP3, trained=False).run(SMOKE, LDI_RAND, 0)
    monkeypatch.setattr("spl.reproduction.job._MIN_STACKED", 1 if together else 2)
    jobs = LocalProcesses(1)
    state = "jobs/*.ckpt" if together else "*/version_0/checkpoints/last.ckpt"

    with pytest.raises(KeyboardInterrupt):
        execute([run, later], RUNS, spl_data, _Stopping(jobs, lambda: any(RUNS.glob(state))))
    assert len(Results(RUNS)) == 0
    assert Results(RUNS).unfinished.keys() == {run.digest}
    execute([run, later], RUNS, spl_data, jobs)
    assert missing([run, later], Results(RUNS)) == []
    assert len(list(RUNS.glob("jobs/*/*.log"))) == 2  # one process for each call
    result = Results(RUNS)[run.digest]
    assert result.folder.name == "version_1"
    steps, _ = result.series("loss/train")
    assert steps.tolist() == list(range(99, 1200, 100))
    assert {name: mask.shape for name, mask in result.masks().items()}["fc1"] == (100, 784)  # logged before training
    assert "fc1" in result.saliency()
    if together:
        assert not any(RUNS.glob(state))


def _long(run: Run) -> Run:
    """Make a run long enough to be stopped after an epoch: 1,200 steps, 540 per epoch."""
    config = json.loads(json.dumps(run.config))
    config["trainer"] |= {"max_steps": 1200, "log_every_n_steps": 100}
    return Run(run.name, config)


class _Stopping(LocalProcesses):
    """Local processes that interrupt the waiting caller as soon as `when` returns True."""

    def __init__(self, executor: LocalProcesses, when) -> None:
        super().__init__(executor.count)
        self.when = when

    def run(self, files):
        jobs = super().run(files)
        try:
            for ended in jobs:
                yield ended
                if self.when():
                    raise KeyboardInterrupt
        finally:
            jobs.close()
