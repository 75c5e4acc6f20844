"""Whole searches with tabulated trials on a real Ray: every end of a trial, halving, budgets."""

import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest
import search_driver

from hpsearch import archive
from hpsearch.settings import resolve
from hpsearch.stopping import TooManyFailuresError
from hpsearch.storage import RunStorage
from hpsearch.tuner import Outcome, search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    import ray

    from hpsearch.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="gp", dir="/tmp"))
        patch.setenv("PYTHONPATH", str(search_driver.BENCHMARKS))
        patch.setenv("EPOCHS", "9")
        connect("local")
        yield
        ray.shutdown()


def _search(folder, runner: str = "InstantTrial", lines: list[str] | None = None, **given) -> Outcome:
    import tabulated

    settings, _ = resolve({"storage_path": str(folder), "name": "run", "space": "tabulated:SPACE", **given}, {})
    said = [] if lines is None else lines
    return search(settings, tabulated.SPACE, say=said.append, runner=f"tabulated:{runner}")


def _rows(folder) -> list[dict]:
    return archive.rows(archive.read_trials(RunStorage.open(folder / "run")))


def test_a_search_ends_with_a_row_per_trial_and_a_growing_front(tmp_path):
    outcome = _search(tmp_path, trials=12)
    rows = _rows(tmp_path)
    assert (outcome.reason, outcome.error) == (None, None)
    assert len({row["config_hash"] for row in rows}) == len(rows) == 12
    assert {row["state"] for row in rows} == {"complete"}
    assert all(row["version"] and row["node"] and row["epochs"] == 9 for row in rows)
    assert outcome.ledger.tracker.hypervolume > 0


def test_halving_stops_trials_early_and_keeps_them_off_the_front(tmp_path):
    outcome = _search(tmp_path, trials=24, halving=True, eta=3, grace=1)
    states = Counter(row["state"] for row in _rows(tmp_path))
    assert states["stopped"] >= 4
    assert states["complete"] >= 3
    assert outcome.ledger.tracker.n_added == states["complete"]
    epochs = {row["epochs"] for row in _rows(tmp_path) if row["state"] == "stopped"}
    assert epochs <= {1, 3}
    noted = outcome.ledger.study.noted_rungs()
    assert len({trial_id for trial_id, rung, *_ in noted if rung == 1}) == 24


def test_a_worker_that_dies_is_replaced_and_its_trial_goes_on_from_the_checkpoint(tmp_path):
    outcome = _search(tmp_path, "MortalTrial", trials=3, halving=True, grace=2, max_concurrent=2)
    rows = _rows(tmp_path)
    assert outcome.ledger.counts["failed"] == 0
    assert len(rows) == 3
    assert len(list((tmp_path / "run" / "subnetworks").glob("*.died"))) >= 1


def test_a_failing_trial_is_booked_with_its_reason_and_the_search_goes_on(tmp_path):
    outcome = _search(tmp_path, "FailingTrial", trials=9, max_failures=1.0)
    failed = [row for row in _rows(tmp_path) if row["state"] == "failed"]
    assert 0 < len(failed) < 9
    assert all("loss is NaN (tabulated.py:" in row["error"] for row in failed)
    assert outcome.ledger.n_finished == 9


def test_a_result_without_a_finite_accuracy_is_a_failure(tmp_path):
    outcome = _search(tmp_path, "NanTrial", trials=2, max_failures=1.0)
    assert outcome.ledger.counts == {"failed": 2}
    assert all("finite val_accuracy" in row["error"] for row in _rows(tmp_path))


def test_a_trial_that_takes_too_long_fails_and_so_does_one_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("hpsearch.watch.HANG_GRACE_S", 1.0)
    outcome = _search(tmp_path, "HangingTrial", trials=4, trial_timeout="1s", max_failures=1.0)
    failed = [row["error"] for row in _rows(tmp_path) if row["state"] == "failed"]
    assert outcome.ledger.n_finished == 4
    assert failed
    assert all("may take 1 s" in error for error in failed)


def test_too_many_failures_stop_the_search_with_the_commonest_reason(tmp_path):
    outcome = _search(tmp_path, "DoomedTrial", trials=20, max_failures=0.2)
    assert isinstance(outcome.error, TooManyFailuresError)
    assert "loss is NaN" in str(outcome.error)
    assert outcome.ledger.n_finished < 20
    assert outcome.ledger.study.open_ids == []


def test_a_used_up_energy_budget_stops_the_search_and_resume_goes_on(tmp_path):
    outcome = _search(tmp_path, trials=30, energy_budget="5J")  # a tabulated trial spends one joule
    assert outcome.reason == "energy budget used up"
    assert 5 <= outcome.ledger.n_finished < 12
    lines: list[str] = []
    again = _search(tmp_path, trials=12, resume=True, lines=lines)
    assert again.ledger.n_finished == len(_rows(tmp_path)) == 12
    assert lines[0].startswith("resumed: ")


def test_a_run_whose_books_cannot_be_written_ends_with_that_error_and_loses_nothing(tmp_path, monkeypatch):
    from greenprune_core.errors import ConfigError

    write, n_written = archive.write_trial, []

    def full_disk(storage, row):
        if len(n_written) == 3:
            raise ConfigError("the storage path must be writable, but No space left on device")
        n_written.append(row)
        write(storage, row)

    monkeypatch.setattr(archive, "write_trial", full_disk)
    outcome = _search(tmp_path, trials=10)
    assert "No space left" in str(outcome.error)
    assert len(_rows(tmp_path)) == 3
    monkeypatch.undo()
    again = _search(tmp_path, trials=10, resume=True)
    assert again.ledger.n_finished == 10
