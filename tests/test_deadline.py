"""Runs that would not end before a deadline do not begin, neither in the command nor in the processes of jobs."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from forking import python
from synthetic_results import finish

from spl.__main__ import main
from spl.errors import InputError
from spl.reproduction import executors
from spl.reproduction.artefacts import ARTEFACTS
from spl.reproduction.budgets import BUDGETS
from spl.reproduction.cost import seconds
from spl.reproduction.deadline import Cost, Deadline, deadline_in, note_pace, note_skipped, skipped
from spl.reproduction.execution import execute, missing
from spl.reproduction.executors import LocalProcesses
from spl.reproduction.job import Group, Job, PlannedRun
from spl.reproduction.methods import LDI_CS, LDI_DENSE, LDI_MAG, Experiment, mlp
from spl.reproduction.results import Results
from spl.reproduction.run import CHECKPOINT, RUNS
from spl.reproduction.worker import work

SMOKE = BUDGETS["smoke"]
TANH = Experiment(mlp("tanh"))
ALONE = Cost(100.0, False, "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows 1,000 seconds until it is moved."""
    shown = [1000.0]
    monkeypatch.setattr("spl.reproduction.deadline.time.time", lambda: shown[0])
    return shown


# What is expected


def test_until_a_run_has_ended_the_estimate_decides(clock, tmp_path):
    deadline = Deadline(1200.0, str(tmp_path))
    assert deadline.allows([ALONE])
    assert deadline.allows([ALONE, ALONE])  # stacked or one after the other
    assert not deadline.allows([ALONE, ALONE, Cost(1.0, False, "")])
    clock[0] = 1101.0
    assert not deadline.allows([ALONE])
    assert Deadline(1200.0, str(tmp_path / "nowhere")).allows([Cost(99.0, False, "")])


def test_then_the_slowest_run_of_its_cost_and_kind_decides(clock, tmp_path):
    deadline = Deadline(1000.0 + 300.0, str(tmp_path))
    note_pace(tmp_path / "0.json", ALONE, 200.0)
    note_pace(tmp_path / "1.json", ALONE, 299.0)
    assert deadline.allows([ALONE])
    note_pace(tmp_path / "0.json", replace(ALONE, kind="AI"), 400.0)
    assert deadline.allows([ALONE])
    assert not deadline.allows([replace(ALONE, kind="AI")])
    assert not deadline.allows([replace(ALONE, kind="EOI")])  # of which none has ended: like the slowest of its cost
    note_pace(tmp_path / "2.json", ALONE, 301.0)
    assert not deadline.allows([ALONE])


def test_a_run_of_another_cost_has_the_mean_pace(clock, tmp_path):
    note_pace(tmp_path / "0.json", ALONE, 150.0)
    note_pace(tmp_path / "0.json", ALONE, 250.0)
    assert Deadline(1401.0, str(tmp_path)).allows([Cost(200.0, False, "")])
    assert not Deadline(1399.0, str(tmp_path)).allows([Cost(200.0, False, "")])


def test_the_pace_of_stacked_runs_is_not_that_of_others(clock, tmp_path):
    note_pace(tmp_path / "0.json", replace(ALONE, together=True), 10.0)
    assert not Deadline(1050.0, str(tmp_path)).allows([ALONE])
    assert Deadline(1050.0, str(tmp_path)).allows([replace(ALONE, together=True)] * 5)


def test_lines_of_a_pace_that_are_not_whole_are_left_out(clock, tmp_path):
    note_pace(tmp_path / "0.json", ALONE, 400.0)
    with (tmp_path / "0.pace").open("ab") as stream:
        stream.write(b'[1, 2]\n\xff\n{}\n[100.0, false, "", "x"]\n[100.0, false')
    assert not Deadline(1300.0, str(tmp_path)).allows([ALONE])
    assert Deadline(1401.0, str(tmp_path)).allows([ALONE])


def test_minutes_are_counted_from_now(clock):
    assert deadline_in(0.5) == 1030.0
    for minutes in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="minutes must be positive"):
            deadline_in(minutes)


# Jobs


class _Recorded(LocalProcesses):
    """Local processes that are not started; in place of each, `make` is called with the file of its job."""

    def __init__(self, make):
        super().__init__(1)
        self.make = make

    def run(self, files):
        for file in files:
            if executors._has_time(file):
                self.make(file)
            yield [file]


def made(clock, cost):
    """Return a function that makes the runs of a job as its process would, each in so many seconds of the clock."""

    def make(file):
        job = Job.read(file)
        for group in job.groups:
            for run in group.runs:
                if not job.may_begin([run], together=False):
                    note_skipped(file, [run.digest])
                    continue
                clock[0] += cost
                note_pace(file, run.cost(together=False), cost)
                checkpoint = finish(RUNS, BY_DIGEST[run.digest]) / CHECKPOINT
                checkpoint.parent.mkdir()
                checkpoint.touch()

    return make


PLANNED = [TANH.run(SMOKE, LDI_CS, seed) for seed in range(3)] + [TANH.run(SMOKE, LDI_DENSE, 0)]
BY_DIGEST = {run.digest: run for run in PLANNED}


def test_a_command_goes_on_with_the_runs_that_had_no_time(clock, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spl.reproduction.job._MIN_STACKED", 100)
    monkeypatch.setattr("spl.reproduction.execution._prepare_data", lambda _: None)
    heir = TANH.run(SMOKE, LDI_MAG, 0)
    executor = _Recorded(made(clock, 100.0))
    assert execute([*PLANNED, heir], RUNS, None, executor, until=clock[0] + 250) == []
    assert len(Results(RUNS)) == 2  # the third would end at 300
    assert len(missing([*PLANNED, heir], Results(RUNS))) == 3
    assert execute(PLANNED, RUNS, None, executor, until=clock[0] + 0.001) == []
    assert len(Results(RUNS)) == 2
    assert len(list((RUNS / "jobs").iterdir())) == 1  # no folder is left where nothing began
    assert execute(PLANNED, RUNS, None, executor, until=clock[0] + 1000) == []
    assert missing(PLANNED, Results(RUNS)) == []


def test_an_heir_of_a_run_that_failed_has_failed_and_one_of_a_run_without_time_has_not(clock, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spl.reproduction.execution._prepare_data", lambda _: None)
    heir = TANH.run(SMOKE, LDI_MAG, 0)
    failures = execute([heir], RUNS, None, _Recorded(lambda file: None), until=clock[0] + 1000)
    assert [failure.run.digest for failure in failures] == [heir.pretrained.digest, heir.digest]
    skipping = _Recorded(lambda file: note_skipped(file, Job.read(file).digests))
    assert execute([heir], RUNS, None, skipping, until=clock[0] + 1000) == []


def test_a_job_without_time_starts_no_process(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(executors, "COMMAND", ["false"])
    job = Job("0", [Group([PlannedRun("digest", {}, [], 100.0)], False)], Deadline(1050.0, str(tmp_path)))
    file = job.write(tmp_path)
    assert [ended for some in LocalProcesses(1).run([file]) for ended in some] == [file]
    assert not file.with_suffix(".log").exists()
    assert skipped(file) == {"digest"}
    assert executors._run_job(file) == 0
    assert not file.with_suffix(".log").exists()


def test_a_process_skips_the_runs_that_would_not_end_in_time(clock, monkeypatch, tmp_path, capsys):
    begun = []

    def begin(fit, arguments, run_yaml):
        begun.append(arguments[2])
        raise RuntimeError("not made")

    monkeypatch.setattr("spl.reproduction.worker.run_command", begin)
    runs = [PlannedRun(name, {"name": name}, [], cost) for name, cost in (("long", 100.0), ("short", 40.0))]
    groups = [Group([run], together=False) for run in runs] + [Group(runs, together=True)]
    file = Job("0", groups, Deadline(1050.0, str(tmp_path))).write(tmp_path)
    assert work(file) == ["short"]
    assert [Path(name).name for name in begun] == ["0.short.yaml"]
    assert file.with_suffix(".skipped").read_text().split() == ["long", "long", "short"]
    assert "long is left for the next command: it would not end in time." in capsys.readouterr().out


def test_jobs_that_wait_in_a_queue_are_cancelled_when_they_have_no_time_left(clock, monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setattr(executors, "_POLL", 0.01)
    cluster = executors.Cluster("local", tmp_path / "submitit", {"timeout_min": 5})

    class Waiting:
        cancelled = False

        def done(self):
            return self.cancelled

        def cancel(self):
            self.cancelled = True

    monkeypatch.setattr(cluster._submitit, "batch", nullcontext)
    monkeypatch.setattr(cluster._submitit, "submit", lambda *_: Waiting())
    job = Job("0", [Group([PlannedRun("digest", {}, [], 100.0)], False)], Deadline(1150.0, str(tmp_path)))
    file = job.write(tmp_path)
    jobs = cluster.run([file])
    assert next(jobs) == []
    clock[0] = 1060.0
    assert [ended for some in jobs for ended in some] == [file]
    assert skipped(file) == {"digest"}


# The command


@pytest.mark.slow
def test_a_command_with_minutes_ends_in_time_and_the_same_one_goes_on(monkeypatch, tmp_path, spl_data, capsys):
    """Untrained runs take half a second or more each, by one process; two of those that are left are then made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BUDGETS, "smoke", replace(SMOKE, sparsities=tuple(k / 100 for k in range(50, 65))))
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    words = ["reproduce", "fig1", "--budget", "smoke", "--data.root", str(spl_data), "--jobs", "1"]
    planned = ARTEFACTS["fig1"].runs(BUDGETS["smoke"])
    needed = max(map(seconds, planned))
    begun = time.monotonic()
    main([*words, "--minutes", str((needed + 6) / 60)])
    took = time.monotonic() - begun
    finished = len(Results(RUNS))
    assert 0 < finished < len(planned)
    said = capsys.readouterr().out
    assert f"{len(planned) - finished} runs remain" in said
    assert "The same command goes on" in said
    assert f"{len(planned) - finished} runs are missing" in Path("reproduction/smoke/fig1.md").read_text()
    assert took < needed + 6 + 15
    paces = [json.loads(line) for file in RUNS.glob("jobs/*/*.pace") for line in file.read_text().splitlines()]
    assert len(paces) == finished
    left = [run.config["pruning"]["sparsity"] for run in missing(planned, Results(RUNS))]
    monkeypatch.setitem(BUDGETS, "smoke", replace(SMOKE, sparsities=(left[-1],)))
    main([*words, "--minutes", "60"])
    assert missing(ARTEFACTS["fig1"].runs(BUDGETS["smoke"]), Results(RUNS)) == []
    assert finished < len(Results(RUNS)) <= finished + 2
    assert "remain" not in capsys.readouterr().out


def test_minutes_must_be_positive(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "fig1", "--minutes", "0"])
    assert ended.value.code == 2
    assert "minutes must be positive, got 0" in capsys.readouterr().err
