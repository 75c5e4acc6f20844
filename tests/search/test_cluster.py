"""How many trials a cluster holds, with the workers that its autoscaler may still add; who is waited for."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from greenprune_core.errors import ConfigError
from hpsearch.cluster import session as cluster
from hpsearch.cluster.session import HEAD as HEAD_RESOURCE
from hpsearch.cluster.session import Placement, autoscaled_nodes, await_worker, connect, count_slots, is_head_alone

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


OWN = {"provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}}
HEAD = {"Alive": True, "Resources": {HEAD_RESOURCE: 1.0}}
WORKER = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}


def _members(monkeypatch: pytest.MonkeyPatch, *looks: list[dict[str, Any]]) -> None:
    """Let Ray name other nodes at each look; the last are those that stay."""
    left = list(looks)
    monkeypatch.setattr(ray, "nodes", lambda: left.pop(0) if len(left) > 1 else left[0])


def test_on_machines_of_ones_own_the_first_worker_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = tmp_path / "c.yaml", []
    path.write_text(yaml.safe_dump(OWN))
    _members(monkeypatch, [HEAD], [HEAD], [HEAD, WORKER])
    await_worker(said.append, path, pause_s=0.0)
    assert said == ["no worker has joined yet: waiting up to 5 minutes for the first"]
    await_worker(said.append, path, pause_s=0.0)
    assert len(said) == 1, "one is there: nothing to wait for"


@pytest.mark.parametrize("config", [None, CONFIG], ids=["no cluster file", "a cloud's"])
def test_elsewhere_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]) -> None:
    path, said = tmp_path / "c.yaml", []
    if config is not None:
        path.write_text(yaml.safe_dump({**config, "provider": {"type": "aws"}}))
    _members(monkeypatch, [HEAD])
    await_worker(said.append, path, seconds=60)
    assert said == []


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"), [(1, 0.25, 4), (2, 0.25, 2), (1, 1, 1), (1, 0, 4)], ids=lambda value: f"{value:g}"
)
def test_slots_are_counted_by_processors_and_gpus_of_each_node(
    monkeypatch: pytest.MonkeyPatch, cpus: float, gpus: float, slots: int
) -> None:
    _members(monkeypatch, [HEAD, WORKER])
    assert count_slots(cpus, gpus) == slots


def test_a_gpu_asked_for_where_there_is_none_is_refused_with_what_the_nodes_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _members(monkeypatch, [HEAD, {"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(ConfigError, match=r"largest have 4 CPUs and 0 GPUs, but got .*gpus-per-trial=0\.25"):
        count_slots(1, 0.25)


@pytest.mark.parametrize(
    ("members", "config", "is_alone"),
    [
        ([HEAD], None, True),
        ([HEAD], {"provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": []}}, True),
        ([HEAD], {**CONFIG, "max_workers": 0}, True),
        ([HEAD, {**WORKER, "Alive": False}], None, True),
        ([HEAD, WORKER], None, False),
        ([HEAD], OWN, False),
        ([HEAD], CONFIG, False),
        ([{"Alive": True, "Resources": {HEAD_RESOURCE: 1.0, "CPU": 4.0}}], None, False),
        ([{"Alive": True, "Resources": {}}], None, False),
    ],
    ids=["no cluster file", "no worker of one's own", "no worker of the cloud's", "the worker is gone", "a worker",
         "a worker of one's own to come", "workers of the cloud's to come", "a head with processors", "no head"],
)  # fmt: skip
def test_trials_run_on_the_head_only_while_it_is_the_only_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[Any], config: dict[str, Any] | None, is_alone: bool
) -> None:
    path = tmp_path / "c.yaml"
    if config is not None:
        path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(cluster, "BOOTSTRAP_FILE", path)
    monkeypatch.setattr(cluster, "cores_here", lambda: 6.0)
    _members(monkeypatch, members)
    assert is_head_alone() is is_alone
    # 1/6 rounded up would let only five of six run
    assert Placement().head_share(1) == (0.1666 if is_alone else None)
    if is_alone:
        assert count_slots(1, 0) == 6


def test_once_a_worker_has_joined_trials_never_come_back_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    _members(monkeypatch, [HEAD], [HEAD], [HEAD, WORKER], [HEAD])
    monkeypatch.setattr(cluster, "cores_here", lambda: 2.0)
    placement = Placement()
    assert [placement.head_share(1) for _ in range(3)] == [0.5, None, None]


def test_workers_that_never_join_are_told_apart_from_workers_that_are_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(OWN))
    monkeypatch.setattr(cluster, "BOOTSTRAP_FILE", path)
    _members(monkeypatch, [HEAD])
    with pytest.raises(ConfigError, match=r"none has joined.*ray status"):
        count_slots(1, 0)


def test_a_cluster_of_another_version_is_one_line_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.utils import check_version_info

    def join(**options: Any) -> None:
        # what ray.init does with the versions that the head has written down
        check_version_info({"ray_version": "2.49.0", "python_version": "3.9.1"}, "node 10.0.0.9")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", join)
    with pytest.raises(ConfigError) as caught:
        connect("10.0.0.1:6379")
    message = str(caught.value)
    assert "\n" not in message
    for text in ("10.0.0.1:6379", "Version mismatch", "Ray: 2.49.0", f"Ray: {ray.__version__}", "check the address"):
        assert text in message


def test_tune_hands_no_key_of_the_driver_to_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(class_cache.ENV_VARS_TO_PROPAGATE))
    monkeypatch.setattr(ray, "remote", lambda runtime_env: lambda kind: runtime_env)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "a-secret")
    assert "a-secret" in str(class_cache._ActorClassCache().get(int)), "if not, Ray has changed its ways: look again"
    cluster.keep_credentials_out_of_logs()
    assert "a-secret" not in str(class_cache._ActorClassCache().get(int))
