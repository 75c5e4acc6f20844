"""One cluster of three hosts for all tests here: making it takes a minute."""

from collections.abc import Iterator

import pytest
from namespace_hosts import Hosts, missing_tools
from ray_cluster import RayCluster

N_TRIALS = 8


@pytest.fixture(scope="session")
def made() -> Iterator[RayCluster]:
    """A head and two workers, brought up by `ray up` from a laptop; a third worker is booted but no member."""
    reason = missing_tools()
    if reason is not None:
        pytest.skip(reason)
    hosts = Hosts(n_workers=3)
    try:
        hosts.start()
        hosts.laptop.run(
            "uv venv --quiet --python 3.11 ~/venv && cd repository && "
            "uv pip install --quiet --python ~/venv/bin/python --constraint constraints.txt '.[cluster]'",
            timeout=300,
        )
        cluster = RayCluster(hosts, hosts.workers[:2], **{"HPSEARCH_TRIALS=64": f"HPSEARCH_TRIALS={N_TRIALS}"})
        cluster.up()
        yield cluster
    finally:
        hosts.stop()


@pytest.fixture
def cluster(made: RayCluster) -> RayCluster:
    """The cluster with its members as the cluster file lists them and no search under way."""
    made.settle()
    return made
