"""How many trials a cluster holds, with the workers that its autoscaler may still add."""

from pathlib import Path

import pytest
import yaml

from hpsearch.cluster import autoscaled_nodes

CONFIG = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "small": {"resources": {"CPU": 2}, "max_workers": 3},
        "large": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2},
    },
}


def test_without_an_autoscaler_no_node_is_to_come(tmp_path: Path) -> None:
    assert autoscaled_nodes(tmp_path / "none.yaml") == []


def test_the_largest_workers_come_first_up_to_both_limits_and_the_head_is_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    assert autoscaled_nodes(path) == [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}, {"CPU": 2}]


@pytest.mark.parametrize("kinds", [{}, {"local.cluster.node": {"resources": {}, "max_workers": 2}}])
def test_machines_of_ones_own_are_counted_only_when_they_are_there(tmp_path: Path, kinds: dict[str, object]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "head_node_type": "local.cluster.node", "available_node_types": kinds}))
    assert autoscaled_nodes(path) == []
