"""Searches that are killed for real, and go on: every trial finished once, none RUNNING, nothing finished lost."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from search_driver import Driver, wait_until_gone

from hpsearch.archive import read_archive, rows
from hpsearch.storage import RunStorage

pytestmark = pytest.mark.slow


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # short: Ray's sockets lie below it, and a socket's path ends at 107 characters
    folder = Path(tempfile.mkdtemp(prefix="gp", dir="/tmp"))
    yield folder
    assert wait_until_gone(str(folder)) == []
    shutil.rmtree(folder, ignore_errors=True)


def _rows(run: Path) -> list[dict]:
    trials = read_archive(RunStorage.open(run))
    assert trials.damaged == ()
    return rows(trials.table)


def _study(run: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(run / "study.journal"))
    return optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(backend))


def _assert_whole(run: Path, n_trials: int) -> None:
    found = _rows(run)
    assert len(found) == n_trials
    assert len({row["config_hash"] for row in found}) == n_trials
    states = [trial.state for trial in _study(run).trials]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) == n_trials
    assert list(run.glob("checkpoints/*")) == []
    assert list(run.rglob("*.aside")) == []


def test_a_search_killed_without_a_goodbye_goes_on_where_it_was(tmp_path, ray_folder):
    run = tmp_path / "run"
    first = Driver(tmp_path, ray_folder, trials=10)
    first.wait_for(3, run)
    first.kill()
    before = {path: path.stat().st_mtime_ns for path in run.glob("trials/*.parquet")}
    assert len(before) < 10
    assert wait_until_gone(str(ray_folder)) == []
    shutil.rmtree(run / "ray")

    second = Driver(tmp_path, ray_folder, trials=10, resume=True)
    assert second.finish() == 0, second.output.read_text()
    _assert_whole(run, 10)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished trial ran again"


def test_ctrl_c_keeps_checkpoints_and_resume_may_ask_for_more_trials(tmp_path, ray_folder, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("SLEEP_S", "0.8")  # epochs: long enough that the end of the search cuts trials off
    first = Driver(tmp_path, ray_folder, trials=8)
    first.wait_for(1, run)
    first.interrupt()
    assert first.finish() == 0, first.output.read_text()
    assert "interrupted" in first.output.read_text()
    states = [trial.state for trial in _study(run).trials]
    assert TrialState.RUNNING not in states
    n_before = len(_rows(run))
    assert 1 <= n_before < 8
    assert len(list(run.glob("checkpoints/*"))) >= 1, "running trials keep a checkpoint"

    monkeypatch.setenv("SLEEP_S", "0.1")
    second = Driver(tmp_path, ray_folder, trials=12, resume=True, sampler="random")
    assert second.finish() == 0, second.output.read_text()
    _assert_whole(run, 12)
