import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.pareto import FrontTracker, front_mask, hypervolume, knee

GRID = st.integers(0, 6).map(float)


def points(n_objectives):
    return st.lists(st.tuples(*[GRID] * n_objectives), max_size=12)


def dominated_by_definition(costs):
    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [any(beats(other, point) for other in costs) for point in costs]


@pytest.mark.parametrize("n_objectives", [2, 3])
def test_the_front_is_what_nothing_dominates(n_objectives):
    @given(points(n_objectives))
    def check(costs):
        assert front_mask(costs).tolist() == [not beaten for beaten in dominated_by_definition(costs)]

    check()


def test_of_an_empty_list_the_front_is_empty():
    assert front_mask([]).shape == (0,)


def test_equal_points_are_all_kept():
    assert front_mask([[1, 2], [1, 2], [2, 3]]).tolist() == [True, True, False]


def test_a_point_with_nan_is_on_no_front_and_removes_none():
    assert front_mask([[math.nan, 0], [1, 1], [-math.inf, 5]]).tolist() == [False, True, False]


def test_the_hypervolume_of_two_steps_is_counted_by_hand():
    # boxes to (4, 4): (1, 3) gives 3 x 1, (2, 1) gives 2 x 3, shared 2 x 1
    assert hypervolume([[1, 3], [2, 1]], [4, 4]) == pytest.approx(3 + 6 - 2)


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (lambda x: 1 - np.sqrt(x), 0.8767),  # ZDT1
        (lambda x: 1 - x**2, 0.5433),  # ZDT2
    ],
)
def test_the_hypervolume_of_zdt_fronts_agrees_with_the_closed_form(front, expected):
    x = np.linspace(0, 1, 20_001)
    assert hypervolume(np.stack([x, front(x)], axis=1), [1.1, 1.1]) == pytest.approx(expected, abs=1e-3)


def test_points_not_better_than_the_reference_add_no_volume():
    assert hypervolume([[5, 1], [1, 5], [math.nan, 1]], [4, 4]) == 0.0
    assert hypervolume([], [4, 4]) == 0.0


@pytest.mark.parametrize("n_objectives", [2, 3])
def test_the_tracker_agrees_with_the_definition_at_every_step(n_objectives):
    reference = [4.0] * n_objectives

    @given(points(n_objectives))
    def check(costs):
        tracker = FrontTracker(reference)
        for count, point in enumerate(costs, start=1):
            before = tracker.hypervolume
            assert tracker.add(point) == pytest.approx(hypervolume(costs[:count], reference))
            assert tracker.hypervolume >= before
        kept = {point for point, is_kept in zip(costs, front_mask(costs), strict=True) if is_kept}
        assert tracker.front == sorted(kept)

    check()


def test_the_tracker_passes_over_a_nan():
    tracker = FrontTracker([4, 4])
    tracker.add([1, 1])
    assert tracker.add([math.nan, 0]) == 9.0
    assert tracker.front == [(1.0, 1.0)]


def test_the_knee_of_a_bent_front_is_its_corner():
    assert knee([[0, 10], [1, 2], [10, 0], [5, 5]]) == 1


def test_the_knee_of_one_point_is_that_point_and_of_none_an_error():
    assert knee([[math.nan, 1], [3, 4]]) == 1
    with pytest.raises(ValueError, match="at least one finite point"):
        knee([])
