"""A trial on a worker, without Ray: reports at rungs, checkpoints, and errors that become results."""

import json

import pyarrow.fs as pafs
import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from greenprune_core.config import TrialConfig
from hpsearch.checkpoints import checkpoint_path
from hpsearch.cluster import worker
from hpsearch.cluster.worker import TrialHost
from hpsearch.storage import RunStorage


def _task(folder, runner: str = "InstantTrial", **other) -> dict:
    config = TrialConfig(epochs=9)
    (folder / "settings.json").touch()
    return {
        "trial_id": config.config_hash,
        "config": config.to_dict(),
        "run": str(folder),
        "rungs": [1, 3],
        "runner": f"tabulated:{runner}",
        "cpus": 1,
        "gpus": 0,
        "device": "cpu",
        "data_dir": None,
        "timeout_s": None,
        **other,
    }


def test_a_trial_reports_at_each_rung_and_ends_with_its_row(tmp_path):
    host = TrialHost(_task(tmp_path))
    first, second, last = (host.step() for _ in range(3))
    assert [(report["epoch"], report["is_at_rung"]) for report in (first, second)] == [(1, True), (3, True)]
    assert (last["state"], last["done"]) == ("complete", True)
    row = json.loads(last["row"])
    assert row["epochs"] == 9
    assert row["node"]
    assert "continued_at_epoch" not in row.get("details", {})
    assert row["started_at"] <= row["finished_at"]


def test_a_trial_without_rungs_runs_through_and_keeps_no_checkpoint(tmp_path):
    assert TrialHost(_task(tmp_path, rungs=[])).step()["state"] == "complete"
    assert not (tmp_path / "checkpoints").exists()


def test_a_new_worker_goes_on_from_the_checkpoint_of_the_last_rung(tmp_path):
    host = TrialHost(_task(tmp_path))
    host.step()
    host.step()
    assert (tmp_path / checkpoint_path(host._id)).exists()
    again = TrialHost(_task(tmp_path))
    last = again.step()
    assert last["state"] == "complete"
    assert json.loads(last["row"])["details"]["continued_at_epoch"] == 3
    assert again._trial.epoch == 9
    restored = tabulated.InstantTrial.restore(tmp_path / checkpoint_path(host._id), host._trial.config, tmp_path)
    assert restored.epoch == 3


def test_a_trial_whose_checkpoint_cannot_be_restored_begins_anew_and_says_so(tmp_path, caplog):
    task = _task(tmp_path)
    path = tmp_path / checkpoint_path(task["trial_id"])
    path.parent.mkdir()
    path.write_bytes(b"half a checkp")
    host = TrialHost(task)
    assert host.step()["epoch"] == 1
    assert "begins anew: its checkpoint cannot be restored" in caplog.text
    assert "continued_at_epoch" not in json.loads(host.step() and host.step()["row"]).get("details", {})


def test_a_long_trial_shows_life_between_its_rungs(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.0)
    report = TrialHost(_task(tmp_path, rungs=[3])).step()
    assert (report["epoch"], report["is_at_rung"], report["state"]) == (1, False, "running")


def test_the_end_of_the_search_keeps_the_state_of_a_trial_that_has_begun_and_only_then(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.0)
    host = TrialHost(_task(tmp_path, rungs=[]))
    host.keep()
    assert not (tmp_path / checkpoint_path(host._id)).exists()
    host.step()
    host.keep()
    assert (tmp_path / checkpoint_path(host._id)).exists()


def test_what_a_trial_raises_is_its_result_with_the_place_where_it_happened(tmp_path):
    report = TrialHost(_task(tmp_path, "DoomedTrial")).step()
    assert (report["state"], report["done"]) == ("failed", True)
    assert report["error"].startswith("ValueError: loss is NaN (tabulated.py:")


def test_a_trial_over_its_time_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tabulated.SleepingTrial, "seconds_per_epoch", 0.05)
    report = TrialHost(_task(tmp_path, "SleepingTrial", timeout_s=0.01)).step()
    assert report["state"] == "failed"
    assert "may take 0.01 s" in report["error"]


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2, 2)])
def test_a_trial_has_as_many_threads_as_processors(cpus, threads):
    import torch

    before = torch.get_num_threads()
    try:
        worker.set_threads(cpus)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_what_a_trial_writes_on_its_own_machine_for_an_object_store_is_removed_with_it(tmp_path, monkeypatch):
    local = tmp_path / "local"
    for folder in (local, tmp_path / "run" / "subnetworks"):
        folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(local))
    host = TrialHost(_task(tmp_path / "run", "NoisyTrial", rungs=[]))
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    (tmp_path / "run" / "subnetworks" / host._id).mkdir()  # which a bucket does without
    host._storage = RunStorage("store", store, "run")
    assert host.step()["state"] == "complete"
    assert (tmp_path / "run" / "subnetworks" / host._id / "card.json").exists()
    (mine,) = local.iterdir()
    assert mine.stat().st_mode & 0o077 == 0, "another user neither reads it nor comes first"
    host.close()
    assert not list(local.iterdir())
