"""Machines that come, go, are killed, cut off and lost: every trial ends once, nothing that had finished is lost.

Each test prints a line `TROUBLE | what | figures`, the rows of the table in docs/cluster.md. The seconds are reported,
they decide nothing: the limits are those of patience.
"""

import time
from collections import Counter
from typing import Any

import optuna
import pytest
from namespace_hosts import wait_for
from ray_cluster import RayCluster, Submitted

from hpsearch.storage import RunStorage
from hpsearch.study.journal import JournalReader

VENV = "PATH=~/.greenprune/bin:$PATH"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# about 15 s of one processor each: long enough to be hit in the middle
LONGER = "--set epochs=36"


def test_a_worker_that_joins_gets_trials_and_hands_them_on_when_it_has_to_go(cluster: RayCluster) -> None:
    spare = cluster.hosts.workers[2]
    spare.run(
        "test -x ~/.greenprune/bin/ray || (uv venv --quiet --python 3.11 ~/.greenprune && cp -r "
        f"{cluster.repository} ~/greenprune && cd ~/greenprune && "
        "uv pip install --quiet --python ~/.greenprune/bin/python --constraint constraints.txt '.[cluster]')",
        timeout=300,
    )
    # two more at once than the members have slots: these wait
    begun = cluster.submit("joined", "--trials 18", "--max-concurrent 6", "--max-failures 0", LONGER)
    begun.await_states(1)
    began = time.monotonic()
    spare.run(f"{VENV}; ray start --address={cluster.hosts.head.ip}:6379 --disable-usage-stats")
    wait_for(lambda: spare.name in cluster.nodes(), f"{spare.name} to join", 150)
    joined = time.monotonic()
    wait_for(lambda: spare.n_processes("ray::TrialWorker") > 0, f"{spare.name} to get a trial", 150)
    served = time.monotonic()
    wait_for(lambda: spare.name in {row["node"] for row in begun.rows()}, f"a trial to end on {spare.name}", 300)
    _tell("worker added", f"member after {joined - began:.0f} s, first trial {served - joined:.0f} s later")

    # the notice of a spot market: 60 s, then the machine goes
    begun.await_states(2)
    before = begun.rows()
    began = time.monotonic()
    cluster.hosts.head.run(
        f"ray drain-node --address {cluster.hosts.head.ip}:6379 --node-id {cluster.nodes()[spare.name]} "
        "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message notice --deadline-remaining-seconds 60"
    )
    wait_for(lambda: spare.n_processes("ray::TrialWorker") == 0, f"the trials to leave {spare.name}", 150)
    left = time.monotonic() - began
    begun.await_end()
    n_continued = _check_all_ended_once(begun, 18, before)
    figures = f"its trials had left after {left:.0f} s, {n_continued} continued"
    _tell("worker drained (notice of 60 s)", f"{figures}, lost 0")


def test_a_killed_worker_loses_no_trial(cluster: RayCluster) -> None:
    begun = cluster.submit("killed", "--trials 6", "--max-failures 0", LONGER)
    # trials of one wave end together: wait until three of the four that run now have a state to go on from
    begun.await_states(3)
    before = begun.rows()
    lost = cluster.workers[1]
    began = time.monotonic()
    lost.kill()
    wait_for(lambda: lost.name not in cluster.nodes(), "the loss to be noticed", 150)
    noticed = time.monotonic() - began
    lost.reboot()
    begun.await_end()
    n_continued = _check_all_ended_once(begun, 6, before)
    cluster.await_nodes(cluster.members)
    figures = f"noticed after {noticed:.0f} s, back and member again at most {time.monotonic() - began:.0f} s later"
    _tell("worker killed", f"{len(before)} of 6 finished before, {figures}, {n_continued} continued, lost 0")
    assert n_continued >= 1


def test_a_worker_that_is_cut_off_for_40_seconds_loses_no_trial(cluster: RayCluster) -> None:
    begun = cluster.submit("cut-off", "--trials 6", "--max-failures 0", LONGER)
    begun.await_states(3)
    before = begun.rows()
    away = cluster.workers[1]
    away.cut_off()
    time.sleep(40)
    away.reconnect()
    back = time.monotonic()
    begun.await_end()
    n_continued = _check_all_ended_once(begun, 6, before)
    cluster.await_nodes(cluster.members)
    figures = f"member again at most {time.monotonic() - back:.0f} s after the network"
    _tell("worker cut off 40 s", f"{len(before)} of 6 finished before, {figures}, {n_continued} continued, lost 0")


def test_a_lost_head_loses_nothing_that_had_finished(cluster: RayCluster) -> None:
    begun = cluster.submit("head-lost", "--trials 5", LONGER)
    begun.await_rows(1)
    begun.await_states(1)
    cluster.hosts.head.kill()
    before = begun.rows()
    begun.process.wait(timeout=120)
    cluster.hosts.head.reboot()
    began = time.monotonic()
    cluster.up()
    recovered = time.monotonic() - began
    again = cluster.submit("head-lost", "--trials 5", "--resume", LONGER)
    assert f"resumed: {len(before)} trials are finished" in again.await_end()
    n_continued = _check_all_ended_once(again, 5, before)
    figures = f"`ray up` took {recovered:.0f} s, {n_continued} continued"
    _tell("head killed", f"{len(before)} of 5 finished before and kept, {figures}, lost 0")
    assert n_continued >= 1


def _check_all_ended_once(begun: Submitted, n: int, before: list[dict[str, Any]]) -> int:
    """Check that n trials are complete, each once, and those of before untouched; return how many were continued."""
    found = begun.rows()
    assert Counter(row["state"] for row in found) == {"complete": n}, [row["error"] for row in found]
    # a finished trial that was run again would have written its row anew
    assert [row for row in found if row["trial_id"] in {old["trial_id"] for old in before}] == before
    journal = optuna.storages.JournalStorage(JournalReader(RunStorage.open(str(begun.run))))
    study = optuna.load_study(study_name=begun.run.name, storage=journal)
    ends = Counter(trial.user_attrs["config_hash"] for trial in study.trials if trial.state.name == "COMPLETE")
    assert ends == {row["trial_id"]: 1 for row in found}
    return _n_continued(found)


def _n_continued(found: list[dict[str, Any]]) -> int:
    return sum(row["details"].get("continued_at_epoch", 0) > 0 for row in found)


def _tell(what: str, figures: str) -> None:
    print(f"TROUBLE | {what} | {figures}")
