"""The other ways in and out that docs/cluster.md names: refusals, jobs, tmux, --start and --stop."""

import re
import shutil

import pytest
from namespace_hosts import wait_for
from ray_cluster import RayCluster, Submitted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = "--trials 4 --set epochs=3"
# about 15 s of one processor each: long enough to be stopped in the middle
LONGER = "--trials 4 --set epochs=36"

OWN_DATA = """
from greenprune_core.data.digits import load
"""


def test_nodes_without_the_storage_the_packages_or_the_data_are_named_before_anything_starts(
    cluster: RayCluster,
) -> None:
    head, other = cluster.hosts.head, cluster.workers[1]
    (head.home / "own.py").write_text(OWN_DATA)
    (changed,) = (other.home / ".greenprune").glob("lib/python3*/site-packages/hpsearch/units.py")
    content = changed.read_bytes()
    inside = cluster.hosts.base / "home"
    changed.unlink()  # a link into uv's cache: write a file of its own
    changed.write_bytes(content + b"# changed\n")
    try:
        begun = cluster.submit(
            "refused", SHORT, f"--storage-path {inside}/runs", f"--set data.name={inside}/own.py:load"
        )
        output = begun.await_end(code=1)  # Ray makes 1 of the 2 of the search
    finally:
        changed.write_bytes(content)
    line = " ".join(output.split())
    assert "worker1, worker2 see another folder than head at" in line
    assert re.search(r"worker2 have greenprune \S+ \(\w{8}\), where head has \S+ \(\w{8}\)", line)
    assert "worker1, worker2 cannot reach the data: " in line
    assert "Traceback" not in output


def test_a_job_through_a_forwarded_port_outlives_ctrl_c_and_ends_in_order_when_it_is_stopped(
    cluster: RayCluster,
) -> None:
    forward = cluster.hosts.laptop.begin(
        f"ssh -N -i {cluster.hosts.base}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        f"-L 8265:127.0.0.1:8265 root@{cluster.hosts.head.ip}",
        cluster.hosts.base / "forward.log",
    )
    address = "--address http://127.0.0.1:8265"
    patience = """--runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}'"""
    try:
        wait_for(lambda: "LISTEN" in cluster.hosts.laptop.run("ss -ltn sport = :8265"), "the forwarded port", 60)
        begun = cluster.begin(
            "job", f"ray job submit {address} --submission-id first {patience} --working-dir . -- "
            f"python hpsearch/run.py --name job {LONGER}",
        )  # fmt: skip
        running = begun.await_states(2)
        begun.press_ctrl_c()
        begun.process.wait(timeout=60)
        assert cluster.driver_pids("job"), "Ctrl-C takes only the view of a job"
        cluster.laptop(f"ray job stop {address} first")
        assert "(interrupted)" in cluster.laptop(f"ray job logs {address} first")
        kept = _kept_of(running, begun)

        again = cluster.begin(
            "job", f"ray job submit {address} --working-dir . -- python hpsearch/run.py --name job {LONGER} --resume"
        )
        output = again.await_end()
    finally:
        forward.kill()
        forward.wait(timeout=20)
    assert "succeeded" in output
    assert f"report: {begun.run}/report.html" in output
    _check_whole(begun)
    assert kept <= _continued(begun)


def test_ctrl_c_ends_the_search_in_order_a_closed_window_at_once_and_resume_goes_on(cluster: RayCluster) -> None:
    begun = cluster.submit("stopped", LONGER)
    running = begun.await_states(2)
    begun.press_ctrl_c()
    output = begun.await_end()
    assert "stopping: running trials keep a checkpoint" in " ".join(output.split())
    assert "(interrupted)" in output
    assert cluster.driver_pids("stopped") == []
    kept = _kept_of(running, begun)

    again = cluster.submit("stopped", LONGER, "--resume")
    again.await_output("are taken up again")
    assert cluster.driver_pids("stopped")
    again.close_terminal()
    again.process.wait(timeout=60)
    wait_for(lambda: cluster.driver_pids("stopped") == [], "the search to end with its terminal", 60)

    last = cluster.submit("stopped", LONGER, "--resume")
    (counts,) = re.findall(r"resumed: (\d) trials are finished, (\d) are taken up again", last.await_end())
    assert sum(map(int, counts)) == 4, "also those that the second had no time to take up"
    _check_whole(last)
    assert kept <= _continued(last)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_tmux_the_search_goes_on_alone_until_ctrl_c_in_a_terminal_that_looks_in(cluster: RayCluster) -> None:
    submit = f"ray submit --tmux cluster.yaml hpsearch/run.py -- --name in-tmux {LONGER}"
    look = "TERM=xterm ray attach --tmux cluster.yaml"  # tmux refuses the terminal of the tests, a dumb one
    begun = cluster.begin("in-tmux", submit)
    output = begun.await_end()
    assert "ray attach cluster.yaml --tmux" in " ".join(output.split())
    running = begun.await_states(2)

    looker = cluster.begin("in-tmux", look)
    looker.await_output("max-failures")
    looker.close_terminal()
    looker.process.wait(timeout=60)
    assert cluster.driver_pids("in-tmux"), "a closed window takes only the view"

    looker = cluster.begin("in-tmux", look)
    looker.await_output("max-failures")
    looker.press_ctrl_c()
    wait_for(lambda: cluster.driver_pids("in-tmux") == [], "the search to end", 120)
    kept = _kept_of(running, begun)

    cluster.begin("in-tmux", f"{submit} --resume").await_end()
    wait_for(lambda: len(begun.rows()) == 4 and cluster.driver_pids("in-tmux") == [], "the search in tmux to end", 400)
    _check_whole(begun)
    assert kept <= _continued(begun)


def test_start_makes_the_cluster_waits_for_a_worker_and_stop_ends_the_head(cluster: RayCluster) -> None:
    # Ray ends `--stop` with `sudo shutdown -h now` on the head: here a stand-in writes down that it was called
    called = cluster.hosts.shared / "sudo-was-called"
    stand_in = cluster.hosts.base / "bin" / "sudo"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    stand_in.chmod(0o755)
    cluster.laptop("ray down -y cluster.yaml")
    assert cluster.nodes() == {}
    try:
        begun = cluster.begin(
            "started", f"ray submit --start --stop cluster.yaml hpsearch/run.py -- --name started {SHORT}"
        )
        begun.await_end()
    finally:
        stand_in.unlink()
    _check_whole(begun)
    assert called.read_text().split() == ["shutdown", "-h", "now"]
    assert "No such command" not in begun.output
    assert "to shut down" in begun.output, "`ray down --workers-only` runs where Ray calls its former name"
    wait_for(lambda: not any(host.n_processes("raylet") for host in cluster.workers), "the workers to end", 120)
    assert cluster.nodes() == {}


def _kept_of(running: set[str], begun: Submitted) -> set[str]:
    """Return the trials that are to go on from a kept state: of those that ran, all that had no time to finish."""
    kept = begun.kept_states()
    assert kept, "at least one was stopped in the middle"
    assert running <= kept | {row["trial_id"] for row in begun.rows() if row["state"] == "complete"}
    return kept


def _check_whole(begun: Submitted) -> None:
    assert [row["state"] for row in begun.rows()] == ["complete"] * 4
    assert (begun.run / "report.html").stat().st_size > 10_000


def _continued(begun: Submitted) -> set[str]:
    """Return the trials that went on from a kept state."""
    return {row["trial_id"] for row in begun.rows() if row["details"].get("continued_at_epoch", 0) > 0}
