"""Kill storms: whatever dies whenever, every requested trial is finished exactly once and nothing half is left.

The first storm kills drivers without Ray at 30 moments, milliseconds apart, so that journal and rows are hit in the
middle of a write. The second kills whole searches on Ray: driver, worker, or both; `KILLS` sets how often.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from search_driver import BENCHMARKS, Driver, processes_with, wait_until_gone

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
def test_drivers_killed_at_30_random_moments_lose_nothing_and_finish_each_trial_once(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("storm.py")), str(run), "80", "30", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 31
    volumes = [report["hypervolume"] for report in reports]
    assert volumes == sorted(volumes), "the hypervolume never falls"
    assert len({report["n_rows"] for report in reports}) > 3, "the kills hit the search in its middle"
    _assert_each_once(run, 80)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_searches_on_ray_killed_at_random_moments_finish_each_trial_once(tmp_path):
    n_kills, n_trials = int(os.environ.get("KILLS", "2")), 16
    ray_folder = Path(tempfile.mkdtemp(prefix="gp", dir="/tmp"))
    run, moments = tmp_path / "run", random.Random(7)
    victims = ["driver", "worker", "both"]
    moments.shuffle(victims)
    for kill in range(n_kills):
        again = {"resume": True} if (run / "settings.json").exists() else {}
        driver = Driver(tmp_path, ray_folder, trials=n_trials, **again)
        n_before = len(list(run.glob("trials/*.parquet")))
        if n_before + 1 < n_trials:
            driver.wait_for(n_before + 1, run)
        time.sleep(moments.uniform(0, 1.0))
        victim = victims[kill % 3]
        workers = [pid for pid in processes_with("ray::TrialWorker") if _is_below(pid, ray_folder)]
        if victim != "driver" and workers:
            os.kill(moments.choice(workers), signal.SIGKILL)
        if victim != "worker":
            driver.kill()
        else:
            time.sleep(0.5)
            driver.kill()
        assert wait_until_gone(str(ray_folder)) == []
    last = Driver(tmp_path, ray_folder, trials=n_trials, resume=True)
    assert last.finish() == 0, last.output.read_text()
    rows = _assert_each_once(run, n_trials)
    opened = open_run(run)
    assert [row["trial_id"] for row in opened.compared.members] == [row["trial_id"] for row in find_front(rows).members]
    assert wait_until_gone(str(ray_folder)) == []
    shutil.rmtree(ray_folder, ignore_errors=True)


def _is_below(pid: int, folder: Path) -> bool:
    """Whether a worker belongs to the session of Ray in this folder; Ray renames them, so look at their files."""
    try:
        return any(str(folder) in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
