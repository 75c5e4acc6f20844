"""Notice to go: a signal, or Ray draining the node; the trial keeps its state and leaves."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_driver import Driver, wait_until_gone
from short_folder import short_folder
from test_worker import _task

from hpsearch.archive import read_archive, rows
from hpsearch.checkpoints import checkpoint_path
from hpsearch.cluster import notice, worker
from hpsearch.cluster.notice import Notice
from hpsearch.cluster.worker import TrialHost
from hpsearch.storage import RunStorage


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_first_sigterm_is_a_notice_and_the_second_does_what_it_did_before(sigterm: None) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    given = Notice()
    given.listen()
    assert not given.is_given()
    os.kill(os.getpid(), signal.SIGTERM)
    assert given.is_given()
    assert heard == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_ray_is_asked_now_and_then_and_a_notice_once_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(notice.time, "monotonic", lambda: clock[0])
    answers = iter([False, True, False])
    given = Notice(lambda: next(answers))
    assert [given.is_given(), given.is_given()] == [False, False], "asked once, too soon for a second time"
    clock[0] = notice.LOOK_S + 1
    assert given.is_given()
    clock[0] *= 3
    assert given.is_given()


def test_with_notice_the_trial_keeps_its_state_at_the_end_of_the_epoch_and_another_worker_goes_on(
    tmp_path: Path,
) -> None:
    # said before the trial is opened: no; at the end of its first epoch: no; of its second: yes
    answers = iter([False, False, True])
    given = Notice()
    given.is_given = lambda: next(answers)  # type: ignore[method-assign]
    leaving = TrialHost(_task(tmp_path, rungs=[]), given)
    assert leaving.step() is None
    kept = json.loads((tmp_path / checkpoint_path(leaving._id)).read_text())
    assert kept["epoch"] == 2
    last = TrialHost(_task(tmp_path, rungs=[])).step()
    assert last is not None
    assert last["state"] == "complete"
    assert '"continued_at_epoch": 2' in last["row"]


def test_a_worker_that_has_to_go_begins_no_trial(tmp_path: Path) -> None:
    assert TrialHost(_task(tmp_path), Notice(lambda: True)).step() is None
    assert not (tmp_path / "checkpoints").exists()


def test_a_worker_that_does_not_see_the_run_says_so_instead_of_training(tmp_path: Path) -> None:
    task = _task(tmp_path)
    (tmp_path / "settings.json").unlink()
    report = TrialHost(task).step()
    assert report is not None
    assert report["state"] == "failed"
    assert f"not the same folder on {os.uname().nodename}" in report["error"]


def test_tune_gives_each_trial_what_its_task_asks_for() -> None:
    for cpus, gpus in ((1, 0.25), (2, 1.0), (4, 0)):
        request = worker.TrialWorker.default_resource_request({"cpus": cpus, "gpus": gpus})
        assert request.required_resources == {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_process_that_gets_sigterm_hands_its_trial_on_and_no_failure_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP_S", "2")  # epochs: the first checkpoint comes 12 s before the trial's end
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's own starves beside other tests
    with short_folder() as ray_folder:
        search = Driver(tmp_path, ray_folder, trials=2, **{"max-failures": 0})
        search.wait_for_a_checkpoint(tmp_path / "run")
        for pid in _trial_workers(ray_folder):
            os.kill(pid, signal.SIGTERM)
        assert search.finish(200) == 0, search.output.read_text()
        assert wait_until_gone(str(ray_folder)) == []
    found = rows(read_archive(RunStorage.open(tmp_path / "run")).table)
    assert [row["state"] for row in found] == ["complete"] * 2, [row["error"] for row in found]
    assert any((row["details"] or {}).get("continued_at_epoch", 0) > 0 for row in found)


def _trial_workers(ray_folder: Path) -> list[int]:
    """Return the ids of the processes that run trials below a session's folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = (folder / "cmdline").read_bytes().startswith(b"ray::TrialWorker")
            if is_worker and str(ray_folder).encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert found, "no process runs a trial"
    return found
