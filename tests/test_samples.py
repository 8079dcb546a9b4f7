import math

import pytest

from spl.reproduction.samples import Difference, Sample, all_positive, describe

LOW, HIGH = Sample((1.0, 2.0, 3.0)), Sample((3.0, 4.0, 5.0))  # each of standard deviation 1


def test_a_sample_is_formatted_as_mean_and_standard_deviation():
    assert f"{LOW:.1f}" == "2.0 ± 1.0"
    assert f"{Sample((2.0,)):.1f}" == "2.0"
    assert f"{Sample(()):.1f}" == "—"
    assert f"{Sample((math.inf, 2.0)):.1f}" == "inf"


def test_what_was_not_measured_is_no_part_of_a_sample():
    assert Sample.of([1.0, math.nan], lambda number: number) == Sample((1.0,), undefined=1)


def test_a_difference_is_told_beyond_two_standard_errors():
    difference = HIGH - LOW
    assert difference.mean == 2
    assert difference.error == pytest.approx(math.sqrt(1 / 3 + 1 / 3))
    assert f"{difference:.1f}" == "+2.0 (s.e. 0.8)"
    assert difference.positive is True
    assert (LOW - HIGH).positive is False
    assert (HIGH - Sample((2.5, 3.5, 4.5))).positive is None


def test_one_run_tells_no_difference():
    difference = Sample((9.0,)) - LOW
    assert difference.positive is None
    assert f"{difference:.1f}" == "+7.0"
    assert f"{Sample(()) - LOW:.1f}" == "—"


def test_differences_of_differences_have_both_errors():
    assert Difference(5.0, 3.0) - Difference(1.0, 4.0) == Difference(4.0, 5.0)


def test_all_are_positive_unless_one_is_negative_or_unclear():
    yes, no, unclear = Difference(1.0, 0.1), Difference(-1.0, 0.1), Difference(0.1, 1.0)
    assert all_positive([yes, yes]) is True
    assert all_positive([yes, unclear]) is None
    assert all_positive([yes, unclear, no]) is False


def test_a_run_that_diverged_is_told_apart_and_not_passed_over():
    sample = Sample.among([1.0, math.nan, 3.0])
    assert (sample.values, sample.undefined, sample.mean) == ((1.0, 3.0), 1, 2.0)
    assert describe(sample) == "2 ± 1.41 (n = 2; 1 not a number)"
    assert describe(Sample.among([1.0, 3.0])) == "2 ± 1.41 (n = 2)"
