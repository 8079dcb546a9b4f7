"""SIGTERM under SLURM: the run saves, its job is requeued, and the same command goes on from there."""

import pytest
from scripts import report_of


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What became of a job that was ended while it scored, then in a step, then by SIGUSR1, then left alone."""
    return report_of("jobs.py", tmp_path_factory.mktemp("jobs"))


def test_a_job_that_is_ended_is_requeued_each_time(report):
    assert report["scontrol"] == ["requeue 1234"] * 3 + ["requeue 99"]
    for start in report["starts"][:3]:
        assert start["status"] == 0
        assert "scontrol requeue 1234: done." in start["said"]


def test_it_ends_between_two_steps_with_a_checkpoint_if_there_was_a_step(report):
    assert [start["step"] for start in report["starts"][:3]] == [None, 51, 61]


def test_the_same_command_goes_on_and_ends_as_if_nothing_had_been(report):
    assert report["starts"][3]["step"] == 123
    assert report["equal"]


def test_another_job_starts_anew(report):
    """It is ended while it scores, which a fit that goes on does not."""
    assert "scontrol requeue 99: done." in report["starts"][4]["said"]


def test_checkpoints_are_in_the_folders_of_runs_alone(report):
    assert all(path.startswith("lightning_logs/quickstart/version_") for path in report["checkpoints"])
