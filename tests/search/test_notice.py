"""Notice to go: a signal, or Ray draining the node; the trial keeps its state and leaves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated
from test_worker import _task

from hpsearch import notice, worker
from hpsearch.checkpoints import checkpoint_path
from hpsearch.notice import Notice
from hpsearch.worker import TrialHost


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
    kept = tabulated.InstantTrial.restore(tmp_path / checkpoint_path(leaving._id), leaving._trial.config, tmp_path)
    assert kept.epoch == 2
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
