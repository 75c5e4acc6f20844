"""Constraints that no trial meets: said after the first trials, with the nearest; exit code 2 where none ever does."""

import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from hpsearch import tuner
from hpsearch.cli import main
from hpsearch.feasibility import FIRST_LOOK, Constraints, Feasibility
from hpsearch.stopping import Budgets
from hpsearch.storage import RunStorage


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


class _Engine:
    """Runs trials as Tune would, without Ray: one after the other, with the budgets looked at after each."""

    def __init__(self, settings, space, ledger, request, slots, runner, progress, halving, say) -> None:
        budgets = Budgets(
            request, ledger, time_s=None, energy_j=None, max_failures=0.5, n_trials=settings.trials, say=say
        )
        while ledger.n_finished < settings.trials and not request.is_set:
            suggestion = ledger.suggest()
            folder = RunStorage.open(settings.run).local
            ledger.finish(suggestion.trial_id, tabulated.InstantTrial(suggestion.config, folder).finish())
            budgets.check()


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """Run `hpsearch search` with constraints; return exit code, output and error line."""
    from hpsearch.commands import search as command

    monkeypatch.setattr(tuner, "connect", lambda address: None)
    monkeypatch.setattr(tuner, "count_slots", lambda cpus, gpus: 2)
    monkeypatch.setattr(tuner, "_run", _Engine)

    def run(*options: str) -> tuple[int, str, str]:
        given = {"space": "tabulated:SPACE", "storage_path": str(tmp_path), "name": "run", "pins": ()}
        given |= dict(zip(options[::2], options[1::2], strict=True))
        click = pytest.importorskip("click")
        # the tabulated trials stand in for the real ones; everything else is the command's own way
        monkeypatch.setattr(
            command, "command", click.Command("search", callback=lambda: command.execute(given, runner="tabulated"))
        )
        code = main(["search"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_what_no_network_can_cost_ends_the_search_after_the_first_trials(search, tmp_path):
    code, out, error = search("trials", 40, "max_energy", "1nJ")
    assert code == 2
    assert error.count("\n") == 1
    assert f"none of {FIRST_LOOK} keeps max-energy 1.00 nJ; nearest: trial " in error
    assert f"{FIRST_LOOK} trials in" in out
    assert (tmp_path / "run" / "report.html").exists()


def test_what_only_contradicts_is_said_once_and_ends_with_code_two(search):
    code, out, error = search("trials", 20, "max_energy", "0.3uJ", "min_accuracy", 0.98)
    assert code == 2
    assert out.count("the search goes on towards them") == 1
    assert f"none of {FIRST_LOOK} keeps" in out
    assert "none of 20 keeps max-energy 300 nJ and min-accuracy 98.00 %; nearest: trial " in error
    assert error.count("\n") == 1


def test_what_can_be_met_is_not_mentioned(search):
    code, out, error = search("trials", 20, "max_energy", "0.9uJ", "min_accuracy", 0.3)
    assert (code, error) == (0, "")
    assert "none of" not in out
