"""Stands in for Tune in this process: real command, study, ledger and budgets; tabulated trials one after the other."""

import click
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from hpsearch import tuner
from hpsearch.cli import main
from hpsearch.commands import search as command
from hpsearch.stopping import Budgets


class Engine:
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


def make_search(folder, monkeypatch, capsys):
    """Return a function that runs `hpsearch search` with options, and returns exit code, output and error line."""
    monkeypatch.setattr(tuner, "connect", lambda address: None)
    monkeypatch.setattr(tuner, "count_slots", lambda cpus, gpus: 2)
    monkeypatch.setattr(tuner, "_run", Engine)

    def run(broken=(), **options) -> tuple[int, str, str]:
        monkeypatch.setattr(Engine, "broken", tuple(broken))
        given = {"space": "tabulated:SPACE", "storage_path": str(folder), "name": "run", "pins": (), **options}
        # the tabulated trials stand in for the real ones; everything else is the command's own way
        monkeypatch.setattr(
            command, "command", click.Command("search", callback=lambda: command.execute(given, runner="tabulated"))
        )
        code = main(["search"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
