"""Constraints that no trial meets: said after the first trials, with the nearest; exit code 2 where none ever does."""

import pytest
from engine_without_ray import make_search

from hpsearch.study.feasibility import FIRST_LOOK, Constraints, Feasibility


def _row(name: str, accuracy: float, energy_j: float) -> dict:
    return {"trial_id": name, "val_accuracy": accuracy, "energy_j": energy_j}


def test_the_nearest_is_the_trial_with_the_least_violation_in_sum():
    seen = Feasibility(Constraints(max_energy_j=1e-6, min_accuracy=0.9))
    for row in (_row("far", 0.95, 3e-6), _row("near", 0.85, 1.1e-6), _row("poor", 0.2, 0.5e-6)):
        seen.take(row)
    assert seen.is_unmet
    assert not seen.is_hopeless
    assert seen.describe() == (
        "a search needs constraints that a trial can meet, but none of 3 keeps max-energy 1.00 µJ and "
        "min-accuracy 90.00 %; nearest: trial near with 85.00 % at 1.10 µJ"
    )
    seen.take(_row("good", 0.9, 1e-6))
    assert not seen.is_unmet


def test_without_constraints_every_trial_is_feasible():
    seen = Feasibility()
    seen.take(_row("a", 0.1, 1.0))
    assert (seen.is_unmet, seen.is_hopeless) == (False, False)


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    return make_search(tmp_path, monkeypatch, capsys)


def test_what_no_network_can_cost_ends_the_search_after_the_first_trials(search, tmp_path):
    code, out, error = search(trials=40, max_energy="1nJ")
    assert code == 2
    assert error.count("\n") == 1
    assert f"none of {FIRST_LOOK} keeps max-energy 1.00 nJ; nearest: trial " in error
    assert f"{FIRST_LOOK} trials in" in out
    assert (tmp_path / "run" / "report.html").exists()


def test_what_only_contradicts_is_said_once_and_ends_with_code_two(search):
    code, out, error = search(trials=20, max_energy="0.3uJ", min_accuracy=0.98)
    assert code == 2
    assert out.count("the search goes on towards them") == 1
    assert f"none of {FIRST_LOOK} keeps" in out
    assert "none of 20 keeps max-energy 300 nJ and min-accuracy 98.00 %; nearest: trial " in error
    assert error.count("\n") == 1


def test_what_can_be_met_is_not_mentioned(search):
    code, out, error = search(trials=20, max_energy="0.9uJ", min_accuracy=0.3)
    assert (code, error) == (0, "")
    assert "none of" not in out


@pytest.mark.parametrize("energy_j", [None, float("nan")])
def test_an_energy_that_is_not_known_keeps_no_limit(energy_j):
    assert Constraints(max_energy_j=1e-6).of({"energy_j": energy_j}) == {"max_energy": 1.0}
