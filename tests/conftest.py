"""Keep the tests that own the machine for when they are asked for."""

import pytest
from hypothesis import settings

# on a crowded machine any example may take a second: how long an example takes is no property under test
settings.register_profile("greenprune", deadline=None)
settings.load_profile("greenprune")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked `cluster` unless `-m cluster` names them: they kill hosts, one after the other."""
    if "cluster" in config.option.markexpr:
        return
    alone = pytest.mark.skip(reason="kills hosts and searches for a quarter of an hour, alone: make cluster")
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(alone)
