"""The other ways in and out that docs/cluster.md names: refusals, jobs, tmux, --start and --stop."""

import re
import shutil

import pytest
from namespace_hosts import wait_for
from ray_cluster import RayCluster, Submitted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = "--trials 4 --set epochs=3"

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


def test_a_job_submitted_through_a_forwarded_port_searches(cluster: RayCluster) -> None:
    forward = cluster.hosts.laptop.begin(
        f"ssh -N -i {cluster.hosts.base}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        f"-L 8265:127.0.0.1:8265 root@{cluster.hosts.head.ip}",
        cluster.hosts.base / "forward.log",
    )
    try:
        wait_for(lambda: "LISTEN" in cluster.hosts.laptop.run("ss -ltn sport = :8265"), "the forwarded port", 60)
        begun = cluster.begin(
            "job", "ray job submit --address http://127.0.0.1:8265 --working-dir . -- "
            f"python hpsearch/run.py --name job {SHORT}",
        )  # fmt: skip
        output = begun.await_end()
    finally:
        forward.kill()
        forward.wait(timeout=20)
    assert "succeeded" in output
    assert f"report: {begun.run}/report.html" in output
    _check_whole(begun)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_tmux_the_search_goes_on_after_the_command_has_returned(cluster: RayCluster) -> None:
    begun = cluster.begin("in-tmux", f"ray submit --tmux cluster.yaml hpsearch/run.py -- --name in-tmux {SHORT}")
    begun.await_end()
    assert "ray attach cluster.yaml --tmux" in " ".join(begun.output.split())
    wait_for(lambda: (begun.run / "report.html").exists(), "the report of the search in tmux", 240)
    _check_whole(begun)


def test_start_makes_the_cluster_waits_for_a_worker_and_stop_ends_it(cluster: RayCluster) -> None:
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
    assert cluster.nodes() == {}


def _check_whole(begun: Submitted) -> None:
    assert [row["state"] for row in begun.rows()] == ["complete"] * 4
    assert (begun.run / "report.html").stat().st_size > 10_000
