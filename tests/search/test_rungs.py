"""Successive halving for two objectives, as arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenprune_core.errors import ConfigError
from hpsearch.pareto import front_mask
from hpsearch.study.rungs import Halving, Rungs, best, is_alone, spread, usual_grace

POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(1e-7, 1e-5)), min_size=1, max_size=30)


def test_rungs_grow_by_eta_and_end_before_the_training_does():
    assert Halving(eta=3, grace=4, epochs=24).rungs == (4, 12)
    assert Halving(eta=2, grace=1, epochs=9).rungs == (1, 2, 4, 8)
    assert Halving(eta=3, grace=1, epochs=9).rungs == (1, 3)
    assert Halving(eta=3, grace=1, epochs=2).rungs == (1,)


@pytest.mark.parametrize(("eta", "grace"), [(1, 1), (3, 0), (3, 9), (3, 10)])
def test_halving_that_cannot_work_is_refused(eta, grace):
    with pytest.raises(ConfigError):
        Halving(eta=eta, grace=grace, epochs=9)


@pytest.mark.parametrize("epochs", range(2, 60))
def test_the_usual_grace_fits_every_training(epochs):
    assert Halving(grace=usual_grace(epochs), epochs=epochs).rungs


def test_the_best_third_is_the_front_before_what_it_dominates():
    points = [(0.1, 5.0), (0.3, 1.0), (0.2, 6.0), (0.4, 2.0), (0.5, 7.0), (0.6, 8.0)]
    assert sorted(best(points, 2)) == [0, 1]
    assert sorted(best(points, 4)) == [0, 1, 2, 3]


@given(POINTS, st.integers(1, 30))
def test_no_chosen_point_is_dominated_by_one_left_out(points, n_best):
    chosen = best(points, min(n_best, len(points)))
    assert len(set(chosen)) == len(chosen) == min(n_best, len(points))
    for out in set(range(len(points))) - set(chosen):
        for inside in chosen:
            both = np.array([points[inside], points[out]])
            assert front_mask(both)[0], (points[inside], points[out])


def test_the_net_takes_the_ends_of_a_front_before_its_middle():
    front = np.array([(0.1, 9.0), (0.11, 8.9), (0.5, 5.0), (0.9, 1.0)])
    assert spread(front)[:3] == [0, 3, 2]


def test_a_trial_whose_energy_nobody_shares_is_alone():
    points = [(0.1, 1.0), (0.2, 1.2), (0.9, 0.5)]
    assert not is_alone(points, 0)
    assert not is_alone(points, 1)
    assert is_alone(points, 2)


def test_the_first_of_a_rung_goes_on_and_a_worse_twin_of_the_same_energy_stops():
    rungs = Rungs(Halving(eta=3, grace=3, epochs=27))
    assert rungs.goes_on("a", 3, accuracy=0.9, energy_j=1.0)
    assert not rungs.goes_on("b", 3, accuracy=0.8, energy_j=1.0)
    assert rungs.goes_on("c", 3, accuracy=0.3, energy_j=0.2), "the only one of its energy"
    assert rungs.goes_on("d", 9, accuracy=0.1, energy_j=1.0), "the first of the next rung"


def test_restored_rungs_decide_as_if_the_search_had_never_ended():
    reports = [(f"t{i}", 3, 0.5 + 0.03 * ((i * 7) % 13), 1e-6 * (1 + (i * 5) % 3)) for i in range(20)]
    whole, restored = (Rungs(Halving(eta=3, grace=3, epochs=27)) for _ in range(2))
    decisions = [whole.goes_on(*report) for report in reports]
    for report in reports[:11]:
        restored.record(*report)
    assert [restored.goes_on(*report) for report in reports[11:]] == decisions[11:]
    assert {True, False} == set(decisions)


def test_a_report_that_comes_again_counts_once():
    rungs = Rungs(Halving(eta=3, grace=3, epochs=27))
    for _ in range(5):
        rungs.record("a", 3, 0.9, 1.0)
    rungs.record("a", 4, 0.9, 1.0)
    assert dict(rungs.reported(3)) == {"a": (pytest.approx(0.1), 1.0)}
    assert rungs.reported(4) == {}
