"""What the nodes of a cluster lack is named before a search starts; on real hosts: tests/cluster."""

from dataclasses import asdict
from pathlib import Path

from greenprune_core.config import DataConfig
from hpsearch.cluster import nodes
from hpsearch.cluster.nodes import NodeLook, find_problems, look_here

WANTED = {"torch": "2.15.0", "greenprune": "0.1.0 (aaaaaaaa)"}


def _look(name: str, versions: dict[str, str] = WANTED, sees: bool = True, data: str | None = None) -> NodeLook:
    return NodeLook(name=name, versions=versions, sees_storage=sees, data_problem=data)


def test_nodes_that_have_everything_are_no_problem() -> None:
    assert find_problems([_look("one"), _look("two")], WANTED, "/runs/a", "head") == []


def test_each_lack_is_told_once_with_the_nodes_named() -> None:
    old = {**WANTED, "torch": "2.11.0"}
    looks = [_look("two", sees=False), _look("one", old, sees=False, data="DataError: no file")]
    assert find_problems(looks, WANTED, "/runs/a", "head") == [
        "one, two see another folder than head at /runs/a (use s3://, gs:// or a folder shared by all)",
        "one have torch 2.11.0, where head has 2.15.0",
        "one cannot reach the data: DataError: no file",
    ]


def test_a_node_looks_for_the_mark_and_loads_the_data(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(nodes, "LATE_S", 0.0)
    found = look_here(str(tmp_path / "mark"), asdict(DataConfig(name="digits")), None)
    assert (found.sees_storage, found.data_problem) == (False, None)
    assert set(found.versions) >= {"greenprune", "torch", "ray"}
    (tmp_path / "mark").touch()
    lost = look_here(str(tmp_path / "mark"), asdict(DataConfig(name=f"{tmp_path}/own.py:load")), None)
    assert lost.sees_storage
    assert "own.py" in str(lost.data_problem)


def test_an_object_store_is_seen_from_everywhere() -> None:
    assert look_here(None, asdict(DataConfig(name="digits")), None).sees_storage


def test_the_digest_of_a_node_is_over_all_three_packages():
    names = nodes.our_sources()
    assert {
        "greenprune_core/config.py",
        "search_spaces/space.py",
        "hpsearch/units.py",
        "hpsearch/cluster/nodes.py",
    } <= set(names)
    assert all(path.is_file() for path in names.values())
