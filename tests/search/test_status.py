"""Where a run stands, read while it runs and when it is over."""

import json
from collections import Counter
from pathlib import Path

import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from hpsearch.cli import main
from hpsearch.lock import DriverLock
from hpsearch.objectives import choose
from hpsearch.search_run import open_run
from hpsearch.settings import resolve
from hpsearch.standing import read_standing
from hpsearch.storage import RunStorage
from hpsearch.study.journal import DriverJournal
from hpsearch.study.ledger import Constraints, Ledger
from hpsearch.study.opening import write_settings
from hpsearch.study.search_study import SearchStudy


def _open(folder: Path, **given) -> Ledger:
    settings, _ = resolve({"storage_path": str(folder), "name": "run", "trials": 9, **given}, {})
    storage = RunStorage.open(settings.run)
    lock = DriverLock(storage)
    write_settings(storage, settings)
    study = SearchStudy(DriverJournal(storage), name="run", space=tabulated.SPACE, objectives=choose())
    ledger = Ledger(storage, study, choose(), Constraints(max_energy_j=settings.max_energy_j))
    lock.release()
    return ledger


def _finish(ledger: Ledger, suggestion) -> None:
    row = tabulated.InstantTrial(suggestion.config, Path()).finish()
    times = {"started_at": "2026-11-22T10:00:00+00:00", "finished_at": "2026-11-22T10:01:00+00:00"}
    ledger.finish(suggestion.trial_id, {**row, **times})


def _unfinished(folder: Path) -> dict[str, int]:
    states = read_standing(open_run(folder / "run")).states
    return {state: states[state] for state in ("running", "waiting")}


def test_status_counts_trials_by_state_while_the_search_runs(tmp_path, capsys):
    ledger = _open(tmp_path)
    drawn = [ledger.suggest() for _ in range(5)]
    _finish(ledger, drawn[0])
    _finish(ledger, drawn[1])
    ledger.stop(drawn[2].trial_id, "behind", {"epochs": 1})
    ledger.fail(drawn[3].trial_id, "loss is NaN")
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {"complete": 2, "stopped": 1, "failed": 1, "running": 1, "waiting": 0}
    assert found["n_asked"] == 9
    assert 1 <= found["n_front"] <= 2
    assert 0 < found["hypervolume"] < 1
    assert found["energy_j"] == 2.0
    assert 0 < found["busy_share"] <= 1
    assert main(["status", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "4 of 9 trials finished" in shown
    assert drawn[0].trial_id in shown or drawn[1].trial_id in shown


def test_trials_that_were_cut_off_wait_beside_the_first_points_and_each_counts_once(tmp_path):
    ledger = _open(tmp_path)
    _finish(ledger, ledger.suggest())
    first, _ = ledger.suggest(), ledger.suggest()
    assert _unfinished(tmp_path) == {"running": 2, "waiting": 0}
    ledger.interrupt_all()
    ledger.study.flush()
    assert _unfinished(tmp_path) == {"running": 0, "waiting": 2}
    again = _open(tmp_path)
    again.reconcile()
    assert _unfinished(tmp_path) == {"running": 0, "waiting": 2}, "queued, and once more in the journal"
    assert again.suggest().trial_id == first.trial_id
    assert _unfinished(tmp_path) == {"running": 1, "waiting": 1}
    again.stop(first.trial_id, "behind", {})
    _finish(again, again.suggest())
    again.study.flush()
    assert _unfinished(tmp_path) == {"running": 0, "waiting": 0}


def test_status_agrees_with_what_the_driver_counts(tmp_path, capsys):
    ledger = _open(tmp_path)
    for _ in range(9):
        _finish(ledger, ledger.suggest())
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    box = ledger.tracker.reference[0] * ledger.tracker.reference[1]
    assert found["hypervolume"] == pytest.approx(ledger.tracker.hypervolume / box)
    assert found["n_front"] == len(ledger.tracker.front)


def test_status_of_a_folder_that_is_no_run_is_the_users_error(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "settings.json" in capsys.readouterr().err


def _refuse_trials(patch: pytest.MonkeyPatch) -> None:
    full = RunStorage._full
    # tests may run as root, who may read everything: a name too long is refused to root too
    patch.setattr(RunStorage, "_full", lambda self, path: full(self, path + "x" * 300 * (path == "trials")))


def _refuse_journal(patch: pytest.MonkeyPatch) -> None:
    read = RunStorage.read_bytes

    def refuse(self, path):
        if path == "study.journal":
            raise PermissionError(13, "Permission denied")
        return read(self, path)

    patch.setattr(RunStorage, "read_bytes", refuse)


@pytest.mark.parametrize(
    ("refuse", "told"),
    [(_refuse_trials, "storage path must be readable"), (_refuse_journal, "study.journal failed: [Errno 13]")],
)
def test_status_of_a_run_that_may_not_be_read_is_one_line(refuse, told, tmp_path, capsys, monkeypatch):
    _open(tmp_path)
    refuse(monkeypatch)
    assert main(["status", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_status_of_a_run_without_a_finished_trial_says_so(tmp_path, capsys):
    _open(tmp_path)
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "0 of 9 trials finished" in capsys.readouterr().out


def test_a_reopened_ledger_counts_as_before_and_tells_what_was_written_but_not_told(tmp_path, monkeypatch):
    ledger = _open(tmp_path, max_energy="0.5uJ")
    drawn = [ledger.suggest() for _ in range(4)]
    _finish(ledger, drawn[0])
    # killed between the row and the journal
    monkeypatch.setattr(ledger.study, "tell_complete", lambda *arguments, **options: None)
    _finish(ledger, drawn[1])
    again = _open(tmp_path)
    assert again.reconcile() == 2, "two were cut off"
    assert again.counts == Counter(complete=2)
    again = _open(tmp_path)
    assert again.reconcile() == 2, "they still wait: that session ended before it took them up"
    states = Counter(trial.state.name for trial in again.study._trials())
    assert states == Counter(COMPLETE=2, FAIL=2, WAITING=2)
    assert {again.suggest().trial_id for _ in range(2)} == {drawn[2].trial_id, drawn[3].trial_id}
    assert again.suggest().trial_id not in {suggestion.trial_id for suggestion in drawn}


def test_a_trial_that_failed_is_not_run_again_with_an_older_copy_of_the_journal(tmp_path):
    ledger = _open(tmp_path)
    older = ledger.storage.read_bytes("study.journal")
    failed, stopped = ledger.suggest().trial_id, ledger.suggest().trial_id
    ledger.fail(failed, "disk not mounted")
    ledger.stop(stopped, "behind", {})
    ledger.study.flush()
    ledger.storage.write_bytes("study.journal", older)
    again = _open(tmp_path)
    again.reconcile()
    assert again.counts == Counter(failed=1, stopped=1)
    assert not {again.suggest().trial_id for _ in range(4)} & {failed, stopped}


def test_two_drivers_never_search_one_run(tmp_path):
    from greenprune_core.errors import ConfigError

    storage = RunStorage.open(tmp_path / "run")
    lock = DriverLock(storage)
    with pytest.raises(ConfigError, match="being searched"):
        DriverLock(storage)
    lock.release()
    DriverLock(storage).release()


def test_every_ended_trial_tells_optuna_where_it_ran_and_why_it_ended(tmp_path):
    ledger = _open(tmp_path)
    ledger.version = "1.2.3"
    done, stopped, failed = (ledger.suggest() for _ in range(3))
    row = tabulated.InstantTrial(done.config, Path()).finish()
    ledger.finish(done.trial_id, {**row, "node": "a"})
    ledger.stop(stopped.trial_id, "behind", {"epochs": 1, "node": "b", "train_seconds": 2.0})
    ledger.fail(failed.trial_id, "loss is NaN", {"node": "c", "train_seconds": 3.0})
    told = {trial.user_attrs["config_hash"]: trial.user_attrs for trial in ledger.study._trials()}
    expected = {"macs": row["macs"], "energy_source": "model:none", "node": "a", "version": "1.2.3"}
    assert expected.items() <= told[done.trial_id].items()
    assert "train_seconds" in told[done.trial_id]
    for suggestion, node, seconds, reason in ((stopped, "b", 2.0, "behind"), (failed, "c", 3.0, "loss is NaN")):
        expected = {"node": node, "train_seconds": seconds, "version": "1.2.3", "reason": reason}
        assert expected.items() <= told[suggestion.trial_id].items()
