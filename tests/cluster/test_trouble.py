"""Machines that are killed, cut off and lost: every trial ends once, nothing that had finished is lost.

Each test prints a line `TROUBLE | what | figures`, the rows of the table in docs/cluster.md.
"""

import time
from collections import Counter
from typing import Any

import pytest
from namespace_hosts import wait_for
from ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# about 20 s of one processor each: long enough to be hit in the middle
LONGER = "--set epochs=48"


def test_a_killed_worker_loses_no_trial(cluster: RayCluster) -> None:
    begun = cluster.submit("killed", "--trials 8", "--max-failures 0", LONGER)
    begun.await_rows(1)
    # trials of one wave end together: wait until three of the four that run now have a state to go on from
    wait_for(lambda: len(begun.kept_states()) >= 3, "running trials to keep their states", 120)
    before = len(begun.rows())
    lost = cluster.workers[1]
    began = time.monotonic()
    lost.kill()
    wait_for(lambda: lost.name not in cluster.nodes(), "the loss to be noticed", 90)
    noticed = time.monotonic() - began
    begun.await_end()
    rows = begun.rows()
    nodes = Counter(row["node"] for row in rows)
    lost.reboot()
    cluster.await_nodes({"head", "worker1", "worker2"})
    _assert_all_ended_once(rows, 8)
    continued = _continued(rows)
    figures = f"noticed after {noticed:.0f} s, back and member again after {time.monotonic() - began:.0f} s"
    _tell("worker killed", f"{before} of 8 finished before, {figures}, {continued} continued, {dict(nodes)}, lost 0")
    assert continued >= 1


def test_a_worker_that_is_cut_off_for_40_seconds_loses_no_trial(cluster: RayCluster) -> None:
    begun = cluster.submit("cut-off", "--trials 8", "--max-failures 0", LONGER)
    begun.await_rows(1)
    away = cluster.workers[1]
    away.cut_off()
    time.sleep(40)
    away.reconnect()
    back = time.monotonic()
    begun.await_end()
    rows = begun.rows()
    _assert_all_ended_once(rows, 8)
    cluster.await_nodes({"head", "worker1", "worker2"})
    figures = f"member again at most {time.monotonic() - back:.0f} s after the network"
    _tell("worker cut off 40 s", f"{figures}, {_continued(rows)} continued, lost 0")


def test_a_lost_head_loses_nothing_that_had_finished(cluster: RayCluster) -> None:
    begun = cluster.submit("head-lost", "--trials 6", LONGER)
    begun.await_rows(2)
    cluster.hosts.head.kill()
    before = {row["trial_id"]: row for row in begun.rows()}
    begun.process.wait(timeout=120)
    cluster.hosts.head.reboot()
    began = time.monotonic()
    cluster.up()
    recovered = time.monotonic() - began
    again = cluster.submit("head-lost", "--trials 6", "--resume", LONGER)
    output = again.await_end()
    rows = again.rows()
    _assert_all_ended_once(rows, 6)
    kept = {row["trial_id"]: row for row in rows if row["trial_id"] in before}
    assert kept == before
    assert "resumed" in output
    _tell("head killed", f"{len(before)} of 6 finished before and kept, `ray up` took {recovered:.0f} s, lost 0")


def _assert_all_ended_once(rows: list[dict[str, Any]], n: int) -> None:
    assert len({row["trial_id"] for row in rows}) == len(rows) == n
    assert Counter(row["state"] for row in rows) == {"complete": n}, [row["error"] for row in rows]


def _continued(rows: list[dict[str, Any]]) -> int:
    """Number of trials that trained longer than their last worker had them: the rest was done by another."""
    return sum(
        row["train_seconds"] > (row["finished_at"] - row["started_at"]).total_seconds() + 1
        for row in rows
        if row["train_seconds"]
    )


def _tell(what: str, figures: str) -> None:
    print(f"TROUBLE | {what} | {figures}")
