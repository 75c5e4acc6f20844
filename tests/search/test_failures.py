"""Trials that fail: how many may, what is said of them, and what a resume makes of those before it. Without Ray."""

import pytest
from engine_without_ray import make_search


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    return make_search(tmp_path, monkeypatch, capsys)


def test_a_search_without_a_result_fails_with_the_commonest_reason(search):
    code, _, error = search(range(2), trials=2, max_failures=1.0)
    assert code == 1
    assert "2 of 2 trials failed; commonest reason (2x): disk not [/mounted]" in error
    assert error.count("\n") == 1


def test_failures_beside_results_are_one_line(search):
    code, out, error = search([1], trials=4)
    assert (code, error) == (0, "")
    assert out.count("1 of 4 trials failed; commonest reason (1x): disk not [/mounted]\n") == 1


def test_a_resumed_search_counts_its_own_failures_only(search):
    code, _, error = search(range(3), trials=4)
    assert code == 1
    assert "at most 2 trials fail, but 3 of 3 did" in error
    code, out, error = search([0], trials=6, resume=True)
    assert (code, error) == (0, "")
    assert "6 trials in" in out


def test_no_failure_is_allowed_where_the_share_is_zero(search):
    code, _, error = search([1], trials=4, max_failures=0.0)
    assert code == 1
    assert "at most 0 trials fail, but 1 of 2 did" in error
