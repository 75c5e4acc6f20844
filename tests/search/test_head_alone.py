"""A head without processors for Ray, alone and with a worker: who runs the trials of a whole search."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import search_driver
from short_folder import short_folder

from hpsearch import archive
from hpsearch.cluster import session as cluster
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.study.ledger import Ledger
from hpsearch.tuner import search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def ray_nodes() -> Iterator[Any]:
    """A head as our cluster files start it, to which workers can be added."""
    import ray
    from ray.cluster_utils import Cluster

    here = Path(__file__).parent
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{search_driver.BENCHMARKS}:{here}")
        patch.setenv("EPOCHS", "3")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setattr(cluster, "cores_here", lambda: 2.0)
        patch.setenv("RAY_TMPDIR", str(folder))
        options = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=options)
        nodes.connect()
        yield nodes
        ray.shutdown()
        nodes.shutdown()


class Joining:
    """Stands where the progress is shown, and lets a worker join after the first trial."""

    def __init__(self, nodes: Any) -> None:
        self._nodes = nodes
        self._has_joined = False

    def begin(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def update(self, n_running: int) -> None:
        if self._ledger.n_finished > 0 and not self._has_joined:
            self._has_joined = True
            self._nodes.add_node(num_cpus=2, object_store_memory=100_000_000)


def _search(folder: Path, lines: list[str], progress: Any = None, **given: Any) -> list[str]:
    """Search and return Ray's id of the node on which each trial ran, in the order of their ends."""
    import tabulated

    settings, _ = resolve({"storage_path": str(folder), "name": "run", "space": "tabulated:SPACE", **given}, {})
    outcome = search(settings, tabulated.SPACE, say=lines.append, progress=progress, runner="placed:PlacedTrial")
    assert outcome.error is None
    rows = archive.rows(archive.read_trials(RunStorage.open(folder / "run")))
    assert [row["state"] for row in rows] == ["complete"] * len(rows)
    return [row["device"] for row in sorted(rows, key=lambda row: row["finished_at"])]


def test_alone_the_head_runs_the_trials_until_a_worker_joins_and_with_a_worker_it_has_no_slots(
    tmp_path: Path, ray_nodes: Any
) -> None:
    import ray

    (head,) = [node["NodeID"] for node in ray.nodes()]
    lines: list[str] = []
    places = _search(tmp_path / "alone", lines, Joining(ray_nodes), trials=16)
    (worker,) = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != head]
    assert any("the head is the only node" in line for line in lines)
    assert len(places) == 16
    assert (places[0], places[-1]) == (head, worker), "what begins after a worker has joined goes there"

    lines.clear()
    assert set(_search(tmp_path / "worker", lines, trials=4)) == {worker}
    assert not any("the head is the only node" in line for line in lines)
