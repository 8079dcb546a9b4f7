"""A full disk ends a command with one sentence and leaves existing files intact."""

import pytest
from scripts import report_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the outcomes of fits whose disk filled up before anything was written, and after 0 and 1 checkpoints."""
    return report_of("full_disk.py", tmp_path_factory.mktemp("disks"))


@pytest.mark.parametrize("after", [-1, 0, 1])
def test_a_full_disk_ends_a_fit_in_one_sentence(report, after):
    found = report[str(after)]
    cause = "No space left on device" if found["real"] else "File too large"
    assert found["code"] == 2
    *before, message = found["errors"].splitlines()
    assert message.startswith("spl: error: ")
    assert cause in message
    assert "make room, and start again or go on from" in message
    assert not before or after == -1  # TensorBoard's thread fails first and says so
    assert not [name for name in found["files"] if name.endswith(".part")]


def test_a_full_disk_leaves_the_checkpoint_before(report):
    name = "lightning_logs/quickstart/version_0/checkpoints/last.ckpt"
    assert name not in report["0"]["files"]
    assert report["1"]["step"] == 6
    assert f"{name} cannot be written" in report["1"]["errors"]


def test_a_full_disk_leaves_no_half_export(report):
    export = report["1"]["export"]
    assert export["code"] == 2
    assert "x.pt cannot be written" in export["errors"]
    assert export["files"] == report["1"]["files"]


def test_a_full_disk_ends_all_processes_of_a_fit_in_one_sentence_each(report):
    """The first process writes; the second is told by gloo."""
    first, second = report["together"]
    assert (first["code"], second["code"]) == (2, 2)
    assert "last.ckpt cannot be written" in first["errors"]
    assert second["errors"].startswith("spl: error: Another process of this run has ended")
