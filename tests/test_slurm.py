"""SIGTERM under SLURM: the run saves, its job is requeued, and the same command resumes it."""

from pathlib import Path

import pytest
from scripts import report_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the outcomes of jobs that were ended during scoring and during a step, and then left alone."""
    return report_of("jobs.py", tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def one(report):
    """Return a job of one process, ended during scoring, then in a step, then by SIGUSR1."""
    return report["one"]


@pytest.fixture(scope="module")
def two(report):
    """Return a job of two processes with its own logger, ended in scoring, then by SIGUSR1 to the second in a step."""
    return report["two"]


def test_a_job_that_is_ended_is_requeued_each_time(one):
    assert one["scontrol"] == ["requeue 1234"] * 3 + ["requeue 99"]
    for start in one["starts"][:3]:
        assert start["statuses"] == [0]
        assert "scontrol requeue 1234: done." in start["said"]


def test_it_ends_between_two_steps_with_a_checkpoint_if_there_was_a_step(one):
    assert [start["step"] for start in one["starts"][:3]] == [None, 51, 61]


def test_the_same_command_goes_on_and_ends_as_if_nothing_had_been(one):
    before = [start["from"] for start in one["starts"][:4]]
    assert before[:2] == [None, None]
    assert [Path(path).parts[-3] for path in before[2:]] == ["version_1", "version_2"]
    assert one["starts"][3]["step"] == 123
    assert one["equal"]


def test_another_job_starts_anew(one):
    """The job is ended during scoring, and a resumed fit does not score."""
    assert "scontrol requeue 99: done." in one["starts"][4]["said"]


def test_checkpoints_are_in_the_folders_of_runs_alone(one, two):
    for job, name in ((one, "quickstart"), (two, "csv")):
        assert all(path.startswith(f"lightning_logs/{name}/version_") for path in job["checkpoints"])


def test_a_job_of_several_processes_is_requeued_once_each_time(two):
    scoring, training, _ = two["starts"]
    assert two["scontrol"] == ["requeue 1234"] * 2
    assert scoring["step"] is None
    assert scoring["statuses"][0] == 0  # the other process lost this one
    assert training["statuses"] == [0, 0]


def test_all_end_after_the_same_step_whichever_of_them_is_signalled_and_go_on_as_if_nothing_had_been(two):
    """They communicate after steps 1, 3, 7, 15 and 31, because steps take almost no time."""
    _, interrupted, resumed = two["starts"]
    assert 21 <= interrupted["step"] <= 63 - 20
    assert "Interrupted. To go on" in interrupted["said"]
    assert resumed["from"].endswith("csv/version_1/checkpoints/last.ckpt")
    assert resumed["step"] == 63
    assert two["equal"]
