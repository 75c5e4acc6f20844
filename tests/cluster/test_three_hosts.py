"""The user's own command on a real cluster: `ray up`, then `ray submit cluster.yaml hpsearch/run.py`."""

import json
import re
from collections import Counter

import pytest
from namespace_hosts import wait_for
from ray_cluster import RayCluster, Submitted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

N_TRIALS = 8


@pytest.fixture(scope="module")
def submitted(cluster: RayCluster) -> Submitted:
    """The bare command, with nothing after it: what is searched stands in the cluster file."""
    found = set(cluster.storage.glob("*")) if cluster.storage.is_dir() else set()
    begun = cluster._begin("bare", "ray submit cluster.yaml hpsearch/run.py")
    begun.await_end()
    (begun.run,) = set(cluster.storage.glob("*")) - found
    return begun


def test_the_bare_command_says_what_was_chosen_and_whence(submitted: Submitted) -> None:
    for setting, value, variable in (
        ("space", "digits", "HPSEARCH_SPACE"),
        ("trials", str(N_TRIALS), "HPSEARCH_TRIALS"),
        ("storage-path", str(submitted.run.parent), "HPSEARCH_STORAGE_PATH"),
    ):
        assert re.search(rf"{setting}\s+{value}\s+\(?{variable}", submitted.output), submitted.output


def test_it_ends_with_the_front_and_the_address_of_the_report(submitted: Submitted) -> None:
    assert f"report: {submitted.run}/report.html" in submitted.output
    assert (submitted.run / "report.html").stat().st_size > 10_000


def test_every_trial_ran_once_on_the_workers_and_none_on_the_head(submitted: Submitted) -> None:
    rows = submitted.rows()
    assert len({row["trial_id"] for row in rows}) == len(rows) == N_TRIALS
    assert {row["state"] for row in rows} <= {"complete", "stopped"}
    nodes = Counter(row["node"] for row in rows)
    print("trials by node:", dict(nodes))
    assert set(nodes) == {"worker1", "worker2"}


def test_the_run_folder_is_complete(submitted: Submitted) -> None:
    complete = {row["trial_id"] for row in submitted.rows() if row["state"] == "complete"}
    saved = {path.parent.name for path in (submitted.run / "subnetworks").glob("*/program.pt2")}
    assert saved == complete
    for name in ("settings.json", "study.journal", "front.parquet", "front.csv", "front.json", "pareto.png"):
        assert (submitted.run / name).stat().st_size > 0
    assert json.loads((submitted.run / "settings.json").read_text())


def test_report_and_pick_work_from_the_storage_on_another_machine(cluster: RayCluster, submitted: Submitted) -> None:
    cluster.laptop(f"hpsearch report {submitted.run}")
    picked = json.loads(cluster.laptop(f"hpsearch pick {submitted.run} --knee --export ~/picked --json 2>/dev/null"))
    assert picked
    assert (cluster.hosts.laptop.home / "picked" / "program.pt2").exists()


def test_a_worker_that_joins_gets_trials_within_30_seconds(cluster: RayCluster) -> None:
    spare = cluster.hosts.workers[2]
    spare.run(
        "uv venv --quiet --python 3.11 ~/.greenprune && cp -r "
        f"{cluster.repository} ~/greenprune && cd ~/greenprune && "
        "uv pip install --quiet --python ~/.greenprune/bin/python --constraint constraints.txt '.[cluster]'",
        timeout=300,
    )
    begun = cluster.submit("joined", "--trials 14", "--max-concurrent 6")
    begun.await_rows(1)
    spare.run(f"PATH=~/.greenprune/bin:$PATH; ray start --address={cluster.hosts.head.ip}:6379 --disable-usage-stats")
    wait_for(lambda: "worker3" in cluster.nodes(), "worker3 to join", 30)
    wait_for(lambda: _n_trial_processes(cluster) > 0, "worker3 to get a trial", 30)
    begun.await_end()
    nodes = Counter(row["node"] for row in begun.rows())
    print("trials by node:", dict(nodes))
    assert nodes["worker3"] >= 1
    spare.kill()
    spare.reboot()


def _n_trial_processes(cluster: RayCluster) -> int:
    return cluster.hosts.workers[2].run("ps -eo args", check=False).count("ray::TrialWorker")
