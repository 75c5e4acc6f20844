"""Trials that fail: how many may, what is said of them, and what a resume makes of those before it. Without Ray."""

import click
import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from hpsearch import tuner
from hpsearch.cli import main
from hpsearch.commands import search as command
from hpsearch.stopping import Budgets


class _Engine:
    """Runs trials as Tune would; those in `broken`, by their place in the session, fail."""

    broken: tuple[int, ...] = ()

    def __init__(self, settings, space, ledger, request, slots, runner, progress, halving, say) -> None:
        limits = {"time_s": None, "energy_j": None, "max_failures": settings.max_failures}
        budgets = Budgets(request, ledger, n_trials=settings.trials, say=say, **limits)
        budgets.check()
        place = 0
        while ledger.n_finished < settings.trials and not request.is_set:
            suggestion = ledger.suggest()
            if place in self.broken:
                ledger.fail(suggestion.trial_id, "disk not [/mounted]")
            else:
                row = tabulated.InstantTrial(suggestion.config, ledger.storage.local).finish()
                ledger.finish(suggestion.trial_id, row)
            budgets.check()
            place += 1


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """Run `hpsearch search`, in which the trials at some places fail; return exit code, output and error line."""
    monkeypatch.setattr(tuner, "connect", lambda address: None)
    monkeypatch.setattr(tuner, "count_slots", lambda cpus, gpus: 2)
    monkeypatch.setattr(tuner, "_run", _Engine)

    def run(broken, **options) -> tuple[int, str, str]:
        monkeypatch.setattr(_Engine, "broken", tuple(broken))
        given = {"space": "tabulated:SPACE", "storage_path": str(tmp_path), "name": "run", "pins": (), **options}
        monkeypatch.setattr(
            command, "command", click.Command("search", callback=lambda: command.execute(given, runner="tabulated"))
        )
        code = main(["search"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


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
