"""Whole searches with tabulated trials on a real Ray: every end of a trial, halving, budgets."""

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import search_driver
from short_folder import short_folder

from hpsearch import archive
from hpsearch.settings import resolve
from hpsearch.stopping import TooManyFailuresError
from hpsearch.storage import RunStorage
from hpsearch.study.opening import open_ledger
from hpsearch.tuner import Outcome, search

OF_THE_RUN = {"node", "started_at", "finished_at"}
"""Columns that say where and when a trial ran."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    import ray

    from hpsearch.cluster.session import connect

    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        # at the niceness that Ray gives them workers starve beside other tests
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(search_driver.BENCHMARKS))
        patch.setenv("EPOCHS", "9")
        connect("local")
        yield
        ray.shutdown()


def _search(
    folder, runner: str = "InstantTrial", lines: list[str] | None = None, progress: Any = None, **given
) -> Outcome:
    import tabulated

    settings, _ = resolve({"storage_path": str(folder), "name": "run", "space": "tabulated:SPACE", **given}, {})
    said = [] if lines is None else lines
    return search(settings, tabulated.SPACE, say=said.append, progress=progress, runner=f"tabulated:{runner}")


def _rows(folder) -> list[dict]:
    return archive.rows(archive.read_trials(RunStorage.open(folder / "run")))


def test_a_used_up_energy_budget_stops_the_search_and_resume_ends_it_with_a_row_per_trial(tmp_path):
    outcome = _search(tmp_path, trials=30, energy_budget="5J", max_concurrent=1)  # a tabulated trial spends one joule
    assert outcome.reason == "energy budget used up"
    assert 5 <= outcome.ledger.n_finished < 12
    lines: list[str] = []
    again = _search(tmp_path, trials=12, resume=True, max_concurrent=1, lines=lines)
    rows = _rows(tmp_path)
    assert (again.reason, again.error) == (None, None)
    assert lines[0].startswith("resumed: ")
    assert len({row["config_hash"] for row in rows}) == len(rows) == again.ledger.n_finished == 12
    assert {row["state"] for row in rows} == {"complete"}
    assert all(row["version"] and row["node"] and row["epochs"] == 9 for row in rows)
    assert again.ledger.tracker.hypervolume >= outcome.ledger.tracker.hypervolume > 0


def test_at_the_end_of_a_search_trials_that_still_wait_for_a_slot_do_not_begin(tmp_path):
    import ray

    one_at_a_time = ray.cluster_resources()["CPU"]
    given = {"trials": 12, "max_concurrent": 12, "cpus_per_trial": one_at_a_time}
    shown: list[int] = []
    progress = SimpleNamespace(begin=lambda ledger: None, update=shown.append)
    outcome = _search(tmp_path, progress=progress, energy_budget="1J", **given)
    assert outcome.reason == "energy budget used up"
    assert max(shown) == 1, "what waits for a slot is not shown as running"
    assert outcome.ledger.n_finished <= 2, "each of those that waited would have ended in an instant"
    assert outcome.ledger.study.open_ids == []
    again = _search(tmp_path, resume=True, **given)
    assert again.ledger.counts == {"complete": 12}


def test_halving_stops_trials_early_and_a_trial_whose_worker_dies_goes_on_from_its_checkpoint(tmp_path):
    outcome = _search(tmp_path, "MortalTrial", trials=12, halving=True, eta=3, grace=1)
    rows = _rows(tmp_path)
    states = Counter(row["state"] for row in rows)
    assert states["stopped"] >= 3
    assert states["complete"] >= 2
    assert states["failed"] == 0
    assert outcome.ledger.tracker.n_added == states["complete"], "a stopped trial is on no front"
    assert {row["epochs"] for row in rows if row["state"] == "stopped"} <= {1, 3}
    noted = outcome.ledger.study.noted_rungs()
    assert len({trial_id for trial_id, rung, *_ in noted if rung == 1}) == 12
    died = {path.stem for path in (tmp_path / "run" / "subnetworks").glob("*.died")}
    assert died & {row["trial_id"] for row in rows if row["state"] == "complete"}


def test_without_halving_a_search_is_bit_identical_to_asking_running_and_telling_one_by_one(tmp_path):
    import tabulated

    found = _search(tmp_path / "ray", trials=13, halving=False, eta=2, max_concurrent=1)
    settings, _ = resolve({"storage_path": str(tmp_path / "plain"), "name": "run", "trials": 13}, {})
    plain, _ = open_ledger(RunStorage.open(settings.run), settings, tabulated.SPACE)
    for _ in range(13):
        suggestion = plain.suggest()
        trial = tabulated.InstantTrial(suggestion.config, tmp_path)
        trial.advance(trial.epochs)
        plain.finish(suggestion.trial_id, trial.finish())
    alone = {row["trial_id"]: row for row in _rows(tmp_path / "plain")}
    for row in _rows(tmp_path / "ray"):
        other = alone.pop(row["trial_id"])
        assert {name: row[name] for name in row if name not in OF_THE_RUN} == {
            name: other[name] for name in other if name not in OF_THE_RUN
        }
    assert alone == {}
    orders = [[t.user_attrs["config_hash"] for t in ledger.study._trials()] for ledger in (found.ledger, plain)]
    assert orders[0] == orders[1]
    assert found.ledger.study.noted_rungs() == []


def test_trials_that_raise_hang_or_end_without_a_number_fail_with_their_reason_and_the_search_goes_on(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("hpsearch.cluster.watch.HANG_GRACE_S", 1.0)
    outcome = _search(tmp_path, "TroubledTrial", trials=12, trial_timeout="1s", max_failures=1.0)
    rows = _rows(tmp_path)
    assert outcome.ledger.n_finished == len(rows) == 12
    reasons = [row["error"] for row in rows if row["state"] == "failed"]
    for text in ("loss is exploded (tabulated.py:", "finite val_accuracy", "may take 1 s"):
        assert any(text in reason for reason in reasons), (text, reasons)
    assert 0 < len(reasons) < 12


def test_a_trial_that_ends_its_worker_again_and_again_fails_and_the_search_goes_on(tmp_path):
    import tabulated

    outcome = _search(tmp_path, "FatalTrial", trials=5, max_failures=1.0)
    rows = _rows(tmp_path)
    assert outcome.ledger.n_finished == len(rows) == 5
    failed = {row["trial_id"] for row in rows if row["state"] == "failed"}
    assert failed == {row["trial_id"] for row in rows if row["params"]["noise"] < tabulated.FatalTrial.SURVIVES_FROM}
    assert 0 < len(failed) < 5
    assert all("the worker process died again and again" in row["error"] for row in rows if row["trial_id"] in failed)
    assert outcome.ledger.study.open_ids == []


def test_too_many_failures_stop_the_search_with_the_commonest_reason(tmp_path):
    outcome = _search(tmp_path, "DoomedTrial", trials=20, max_failures=0.2, max_concurrent=1)
    assert isinstance(outcome.error, TooManyFailuresError)
    assert "loss is NaN" in str(outcome.error)
    assert outcome.ledger.n_finished < 20
    assert outcome.ledger.study.open_ids == []


def test_a_run_whose_books_cannot_be_written_ends_with_that_error_and_loses_nothing(tmp_path, monkeypatch):
    from greenprune_core.errors import ConfigError

    write, n_written = archive.write_trial, []

    def full_disk(storage, row):
        if len(n_written) == 3:
            raise ConfigError("the storage path must be writable, but No space left on device")
        n_written.append(row)
        write(storage, row)

    monkeypatch.setattr(archive, "write_trial", full_disk)
    outcome = _search(tmp_path, trials=10, max_concurrent=1)
    assert "No space left" in str(outcome.error)
    assert len(_rows(tmp_path)) == 3
    monkeypatch.undo()
    again = _search(tmp_path, trials=10, resume=True, max_concurrent=1)
    assert again.ledger.n_finished == 10
