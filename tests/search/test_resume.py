"""A search that is interrupted, then killed, and goes on: every trial finished once, none RUNNING, nothing lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from search_driver import Driver, wait_until_gone
from short_folder import short_folder

from hpsearch.archive import read_archive, rows
from hpsearch.storage import RunStorage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder
        assert wait_until_gone(str(folder)) == []


def _rows(run: Path) -> list[dict]:
    trials = read_archive(RunStorage.open(run))
    assert trials.damaged == ()
    return rows(trials.table)


def _states(run: Path) -> list[TrialState]:
    if not (run / "study.journal").exists():
        return []
    backend = optuna.storages.journal.JournalFileBackend(str(run / "study.journal"))
    study = optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(backend))
    return [trial.state for trial in study.trials]


def _moments(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.glob("trials/*.parquet")}


def test_ctrl_c_keeps_checkpoints_and_a_killed_resume_with_more_trials_goes_on(tmp_path, ray_folder, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("SLEEP_S", "2")  # epochs: the first checkpoint comes 12 s before the trial's end
    first = Driver(tmp_path, ray_folder, trials=8)
    first.wait_for_a_checkpoint(run)
    first.interrupt()
    assert first.finish() == 0, first.output.read_text()
    assert "interrupted" in first.output.read_text()
    assert TrialState.RUNNING not in _states(run)
    after_first = _moments(run)
    assert len(after_first) < 8
    assert len(list(run.glob("checkpoints/*"))) >= 1, "running trials keep a checkpoint"

    monkeypatch.setenv("SLEEP_S", "0.4")
    second = Driver(tmp_path, ray_folder, trials=10, resume=True, sampler="random")
    second.wait_for(len(after_first) + 1, run)
    second.kill()
    assert wait_until_gone(str(ray_folder)) == []
    after_second = _moments(run)
    assert len(after_second) < 10
    shutil.rmtree(run / "ray")

    monkeypatch.setenv("SLEEP_S", "0.1")
    third = Driver(tmp_path, ray_folder, trials=10, resume=True)
    assert third.finish() == 0, third.output.read_text()
    found = _rows(run)
    assert len({row["config_hash"] for row in found}) == len(found) == 10
    states = _states(run)
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) == 10
    for before in (after_first, after_second):
        assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished trial ran again"
    assert list(run.glob("checkpoints/*")) == []
    assert list(run.rglob("*.aside")) == []


def test_a_second_ctrl_c_stops_at_once_and_resume_finishes_each_trial_once(tmp_path, ray_folder, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("SLEEP_S", "20")  # nobody reports before the first Ctrl-C has been followed by the second
    first = Driver(tmp_path, ray_folder, trials=6)
    first.wait_until(lambda: TrialState.RUNNING in _states(run))
    first.interrupt()
    first.wait_until(lambda: "once more stops now" in " ".join(first.output.read_text().split()))
    assert first.process.poll() is None, "the first one waits for the running trials"
    first.interrupt()
    assert first.finish() == 1
    said = first.output.read_text()
    assert "hpsearch: interrupted" in said
    assert "Traceback" not in said
    assert TrialState.RUNNING not in _states(run)
    assert wait_until_gone(str(ray_folder)) == []

    monkeypatch.setenv("SLEEP_S", "0.1")
    second = Driver(tmp_path, ray_folder, trials=6, resume=True)
    assert second.finish() == 0, second.output.read_text()
    found = _rows(run)
    assert len({row["config_hash"] for row in found}) == len(found) == 6
    assert _states(run).count(TrialState.COMPLETE) == 6
