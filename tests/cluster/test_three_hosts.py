"""The user's own command on a real cluster: `ray up`, then `ray submit cluster.yaml hpsearch/run.py`."""

import json
import re
from collections import Counter

import pytest
from ray_cluster import RayCluster, Submitted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

N_TRIALS = 8


@pytest.fixture(scope="module")
def submitted(made: RayCluster) -> Submitted:
    """The bare command, with nothing after it: what is searched stands in the cluster file."""
    made.settle()
    found = set(made.storage.glob("*")) if made.storage.is_dir() else set()
    begun = made.begin("bare", "ray submit cluster.yaml hpsearch/run.py")
    begun.await_end()
    (begun.run,) = set(made.storage.glob("*")) - found
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


def test_report_and_pick_work_from_the_storage_on_another_machine(made: RayCluster, submitted: Submitted) -> None:
    made.laptop(f"hpsearch report {submitted.run}")
    picked = json.loads(made.laptop(f"hpsearch pick {submitted.run} --knee --export ~/picked --json 2>/dev/null"))
    assert picked
    assert (made.hosts.laptop.home / "picked" / "program.pt2").exists()
