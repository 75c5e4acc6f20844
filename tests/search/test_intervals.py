from statistics import stdev

import pytest

from hpsearch.intervals import mean_interval, overlap, share_interval


def test_the_interval_of_a_share_is_wilsons():
    # Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662
    assert share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_share_of_one_has_an_interval_below_one_only():
    low, high = share_interval(1.0, 20)
    assert low == pytest.approx(0.8389, abs=1e-4)
    assert high == 1.0


@pytest.mark.parametrize(("share", "n"), [(None, 10), (0.5, None), (0.5, 0), (float("nan"), 10), (-1.0, 10), (1.1, 10)])
def test_without_figures_there_is_no_interval(share, n):
    assert share_interval(share, n) is None


def test_the_interval_of_a_mean_uses_students_t():
    # mean 2, SD 1, n 3: half width 4.303 / sqrt(3)
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert mean_interval([1.0]) is None


@pytest.mark.parametrize(("n", "t_95"), [(12, 2.201), (16, 2.131), (31, 2.042), (121, 1.980)])
def test_many_repeats_use_students_t_too(n, t_95):
    # half of them 0, half 2 (one 1 where they are odd): Fisher and Yates, table III
    values = [0.0] * (n // 2) + [1.0] * (n % 2) + [2.0] * (n // 2)
    half = t_95 * stdev(values) / n**0.5
    assert mean_interval(values) == pytest.approx((1 - half, 1 + half), abs=3e-4)


def test_intervals_overlap_when_they_share_a_point():
    assert overlap((0, 1), (1, 2)) is True
    assert overlap((0, 1), (1.1, 2)) is False
    assert overlap(None, (0, 1)) is None
