"""Trials that hang, seen by the driver: a simulated clock, no Ray."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import ray

from hpsearch.cluster import watch
from hpsearch.cluster.watch import Watch

TIMEOUT_S = 1800.0


@dataclass(eq=False)
class Trial:
    """What `Watch` touches of Tune's trial."""

    temporary_state: SimpleNamespace
    trial_id: str = "t"
    max_failures: int = 3


@pytest.fixture
def ended_at(monkeypatch):
    """Return a function that says when a trial's worker is ended, by the times of its reports."""

    def run(reports, *, until=6000):
        now, ended = [0.0], []
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(ray, "kill", lambda actor: ended.append(now[0]))
        searcher = SimpleNamespace(running={"t": "ours"}, condemned={})
        budgets, request = SimpleNamespace(check=lambda joules: None), SimpleNamespace(is_set=False)
        trial = Trial(temporary_state=SimpleNamespace(ray_actor="actor"))
        looks_on = Watch(searcher, budgets, request, progress=None, timeout_s=TIMEOUT_S)
        looks_on.on_trial_start(0, [], trial)
        for second in range(until):
            now[0] = float(second)
            if second in reports:
                looks_on.on_trial_result(0, [], trial, {})
            looks_on.on_step_end(0, [])
        assert (trial.max_failures, list(searcher.condemned)) == ((0, ["ours"]) if ended else (3, []))
        return ended

    return run


def test_a_trial_that_hangs_is_ended_once_30_s_after_its_time_however_late_it_was_last_heard(ended_at):
    assert ended_at(set()) == [1831]
    assert ended_at({1790}) == [1831]
    assert ended_at({1820}) == [1851]


def test_a_trial_that_reports_is_left_to_its_worker_which_ends_it_after_the_epoch(ended_at):
    assert ended_at(set(range(0, 6000, 25))) == []
