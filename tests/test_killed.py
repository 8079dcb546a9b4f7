"""A fit that is killed at any moment resumes from its last checkpoint and ends like the uninterrupted fit."""

import pytest
from kills import BATCHES, KILLS, MOMENTS
from scripts import report_of

SEED = 0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the outcomes of killed fits, from a script that forks all fits from one process."""
    return report_of("kills.py", tmp_path_factory.mktemp("killed"), SEED)


def test_a_fit_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(report):
    """Weights, masks, optimizer, schedule and order are compared; before the first checkpoint a fit starts again."""
    assert len(report["random"]) == MOMENTS == 20
    for moment in report["random"]:
        assert moment["equal"], (SEED, moment)
    assert sum(moment["killed"] for moment in report["random"]) >= MOMENTS - 1  # one may be too close to the end
    steps = {moment["step"] for moment in report["random"]}
    assert {None, BATCHES + 1, 2 * BATCHES + 1, 3 * BATCHES + 1} <= steps


def test_a_fit_that_is_killed_again_and_again_ends_as_if_it_had_not_been(report):
    steps = report["repeated"]["steps"]
    assert len(steps) == KILLS
    assert len(set(steps)) > 2
    assert report["repeated"]["equal"], (SEED, steps)


@pytest.mark.parametrize(("moment", "written"), [("half", 1), ("whole", 1), ("in place", 2)])
def test_a_checkpoint_is_replaced_whole_or_not_at_all(report, moment, written):
    found = report["writing"][moment]
    assert found["step"] == written * BATCHES + 1
    assert found["equal"]
    assert [name for name in found["files"] if not name.startswith(".")] == ["last.ckpt"]
    assert len(found["files"]) == (1 if moment == "in place" else 2)
