"""Kill storms: whatever dies whenever, every requested trial is finished exactly once and nothing half is left.

The first storm kills drivers without Ray, milliseconds apart, so that journal and rows are hit in the middle of a
write. The second kills whole searches on Ray at 30 moments: driver, worker, or both.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from search_driver import BENCHMARKS, Driver, processes_with, wait_until_gone
from short_folder import short_folder
from storm import hypervolume

from hpsearch import archive
from hpsearch.front import find_front
from hpsearch.search_run import open_run
from hpsearch.storage import RunStorage

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def _assert_each_once(run: Path, n_trials: int) -> list[dict]:
    trials = archive.read_archive(RunStorage.open(run))
    assert trials.damaged == ()
    rows = archive.rows(trials.table)
    assert len(rows) == n_trials
    backend = optuna.storages.journal.JournalFileBackend(str(run / "study.journal"))
    study = optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(backend))
    told = [trial for trial in study.trials if "interrupted" not in trial.user_attrs]
    assert Counter(trial.state for trial in told) == Counter(STATES[row["state"]] for row in rows)
    by_hash = {trial.user_attrs["config_hash"]: trial for trial in told}
    assert len(by_hash) == n_trials
    for row in rows:
        assert by_hash[row["config_hash"]].state == STATES[row["state"]]
        if row["state"] == "complete":
            assert by_hash[row["config_hash"]].values == [row["val_accuracy"], row["energy_j"]]
    assert list(run.glob("checkpoints/*")) == []
    assert list(run.rglob("*.aside")) == []
    return rows


@pytest.mark.slow
def test_drivers_killed_at_random_moments_lose_nothing_and_finish_each_trial_once(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("storm.py")), str(run), "40", "12", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 13
    volumes = [report["hypervolume"] for report in reports]
    assert volumes == sorted(volumes), "the hypervolume never falls"
    assert len({report["n_rows"] for report in reports}) > 3, "the kills hit the search in its middle"
    _assert_each_once(run, 40)


@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_searches_on_ray_killed_at_30_random_moments_finish_each_trial_once(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS", "5")
    with short_folder() as ray_folder:
        storm = RayStorm(tmp_path, ray_folder, n_trials=60, seed=7)
        for victim in storm.shuffled(["driver", "worker", "both"] * 10):
            storm.kill(victim)
        storm.finish()
        assert wait_until_gone(str(ray_folder)) == []
    assert storm.n_kills == 30
    assert storm.volumes == sorted(storm.volumes), "the hypervolume never falls"
    assert len(set(storm.n_rows)) > 10, "the kills hit the search in its middle"
    rows = _assert_each_once(tmp_path / "run", 60)
    opened = open_run(tmp_path / "run")
    assert [row["trial_id"] for row in opened.compared.members] == [row["trial_id"] for row in find_front(rows).members]


class RayStorm:
    """Searches of one run, one after the other, killed at moments that the seed decides."""

    def __init__(self, root: Path, ray_folder: Path, *, n_trials: int, seed: int) -> None:
        self._root, self._ray_folder, self._n_trials = root, ray_folder, n_trials
        self._moments = random.Random(seed)
        self._driver: Driver | None = None
        self.n_kills = 0
        self.volumes: list[float] = []
        self.n_rows: list[int] = []

    def shuffled(self, victims: list[str]) -> list[str]:
        """Return the victims in the seed's order."""
        return self._moments.sample(victims, len(victims))

    def kill(self, victim: str) -> None:
        """Wait for a moment in a search, kill, and look at what is left."""
        run, driver = self._root / "run", self._driver or self._start()
        # a trial that has just been booked, or none yet in this search: then it is starting, or reconciling
        n_wanted = len(list(run.glob("trials/*.parquet"))) + self._moments.choice([0, 1, 1, 2])
        if n_wanted < self._n_trials - 2:
            driver.wait_for(n_wanted, run, limit_s=600)
        time.sleep(self._moments.uniform(0.0, 1.0))
        workers = [pid for pid in processes_with("ray::TrialWorker") if _is_below(pid, self._ray_folder)]
        if victim != "driver" and workers:
            _kill_if_there(self._moments.choice(workers))
        self._driver = driver
        if victim != "worker":
            driver.kill()
            self._driver = None
            assert wait_until_gone(str(self._ray_folder), limit_s=120) == []
        self.n_kills += 1
        self.n_rows.append(len(list(run.glob("trials/*.parquet"))))
        self.volumes.append(hypervolume(run))

    def finish(self) -> None:
        """Let the last search come to its end."""
        driver = self._driver or self._start()
        assert driver.finish(limit_s=1200) == 0, driver.output.read_text()
        self.volumes.append(hypervolume(self._root / "run"))

    def _start(self) -> Driver:
        again = {"resume": True} if (self._root / "run" / "settings.json").exists() else {}
        return Driver(self._root, self._ray_folder, trials=self._n_trials, **again)


def _kill_if_there(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_below(pid: int, folder: Path) -> bool:
    """Whether a worker belongs to the session of Ray in this folder; Ray renames them, so look at their files."""
    try:
        return any(str(folder) in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
