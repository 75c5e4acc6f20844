"""Ray as the search needs it: one quiet session, where trials run, and how many fit."""

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenprune_core.errors import ConfigError
from greenprune_core.home import give_home, in_home

OBJECT_STORE_BYTES = 200_000_000
"""Nothing large goes through Ray's object store: data sets are read by the workers."""

WORKER_S = 300.0
"""How long `ray up` may take to start the first worker after the head: it installs the packages there."""

BOOTSTRAP_FILE = in_home("ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster file on the head."""

HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head and to no other node: one of it."""

QUIET = {
    # no call to the network behind the user's back
    "RAY_USAGE_STATS_ENABLED": "0",
    # our rows are the log: Tune's CSV, JSON and TensorBoard files cost 30 ms a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own state is never read: a run is rebuilt from journal and rows
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # workers stay where the search was started, so that relative paths keep their meaning
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def connect(address: str | None) -> None:
    """Join the named cluster, else `RAY_ADDRESS`, else one started on this machine, else start one here.

    Raises:
        ConfigError: the cluster does not answer, or runs other versions.
    """
    give_home()
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    place = address or os.environ.get("RAY_ADDRESS") or (None if _has_cluster_here() else "local")
    if place == "local":
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        temporary = os.environ.get("RAY_TMPDIR")
        options |= {"_temp_dir": temporary} if temporary else {}
    try:
        ray.init(address=place, **options)
    except Exception as error:  # Ray raises a plain Exception where its daemons take more than 30 s to start
        ray.shutdown()
        reason = " ".join(str(error).split())  # of a version mismatch Ray writes six lines
        raise ConfigError(
            f"a search needs a Ray cluster that answers, but {place or 'the one on this machine'} failed: {reason}; "
            "check the address and the versions, or use --address local; on a crowded machine try again"
        ) from error


def keep_credentials_out_of_logs() -> None:
    """Keep Tune from handing this process's AWS keys to its trials: Ray writes what it hands on into its logs.

    Each node has its own from the usual places: the machine's role, ~/.aws, or the environment that Ray was started in.
    """
    from ray.tune.execution import class_cache  # no public switch (Ray 2.60)

    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)


def await_worker(
    say: Callable[[str], None], path: Path = BOOTSTRAP_FILE, seconds: float = WORKER_S, pause_s: float = 2.0
) -> None:
    """Wait for the first worker where `ray up` has just started a head without trial slots on machines of one's own.

    Elsewhere nobody waits: a cloud's autoscaler says what it may add, and other clusters have all nodes at the start.

    Args:
        say: Told once if there is anything to wait for.
        path: The cluster file as `ray up` leaves it on the head.
        seconds: How long to wait.
        pause_s: Time between two looks.
    """
    if not path.is_file() or _has_slots():
        return
    if not _own_workers(_cluster_file(path)):
        return
    say(f"no worker has joined yet: waiting up to {seconds / 60:.0f} minutes for the first")
    ends = time.monotonic() + seconds
    while not _has_slots() and time.monotonic() < ends:
        time.sleep(pause_s)


def _has_slots() -> bool:
    return any(node.get("CPU", 0) > 0 for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is a member now."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _expects_workers(path: Path) -> bool:
    """Say whether the cluster file on the head names workers, there or not."""
    return bool(_own_workers(_cluster_file(path)) or autoscaled_nodes(path))


def _own_workers(config: dict[str, Any]) -> list[str]:
    provider = config.get("provider") or {}
    return list(provider.get("worker_ips") or []) if provider.get("type") == "local" else []


def _cluster_file(path: Path) -> dict[str, Any]:
    """Return the cluster file as `ray up` leaves it on the head; empty where there is none."""
    if not path.is_file():
        return {}
    import yaml

    config: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    return config


class Placement:
    """Where trials run: on the workers, or on the head for as long as it is the only node.

    The head of our cluster files has no processors for Ray, so that a search does not lose its driver to a trial that
    ate the memory. Alone it gives its trials shares of `HEAD`, by which Ray counts them instead. Once a worker has
    joined, what is begun goes there; a search that began with workers never comes back to the head.
    """

    def __init__(self) -> None:
        self.is_on_head = is_head_alone()

    def head_share(self, cpus_per_trial: float) -> float | None:
        """Return the share of the head that the next trial asks for; None where it asks for a worker's processors."""
        self.is_on_head = self.is_on_head and is_head_alone()
        # rounded down to what Ray tells apart: six times 0.1667 would be more than there is
        return math.floor(1e4 * cpus_per_trial / cores_here()) / 1e4 if self.is_on_head else None


def is_head_alone() -> bool:
    """Say whether the only node is a head without processors for Ray, and none is to come by its cluster file."""
    nodes = _nodes()
    return len(nodes) == 1 and HEAD in nodes[0] and not nodes[0].get("CPU") and not _expects_workers(BOOTSTRAP_FILE)


def cores_here() -> float:
    """Return the processors of this machine, or the part of them that a container may use."""
    from ray._private.utils import get_num_cpus  # what `ray start` itself would have counted

    return float(get_num_cpus())


def count_slots(cpus_per_trial: float, gpus_per_trial: float) -> int:
    """Return how many trials fit on the cluster at once, node by node, with the workers that its autoscaler may add.

    Raises:
        ConfigError: no node can hold one.
    """
    there = _nodes()
    if is_head_alone():
        there = [{**there[0], "CPU": cores_here()}]
    to_come = autoscaled_nodes(BOOTSTRAP_FILE)
    # what the autoscaler may add counts the workers that it has added already
    nodes = max(
        there, to_come, key=lambda nodes: sum(_slots_of(node, cpus_per_trial, gpus_per_trial) for node in nodes)
    )
    slots = sum(_slots_of(node, cpus_per_trial, gpus_per_trial) for node in nodes)
    if slots == 0 and not any(node.get("CPU") for node in nodes):
        raise ConfigError(
            "trials run on workers, but none has joined and the head keeps its processors for the search; see that "
            "`ray status` on the head lists the workers (docs/cluster.md, Trouble), then try again"
        )
    if slots == 0:
        cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        raise ConfigError(
            f"a trial has to fit on one node, and the largest have {cpus:g} CPUs and {gpus:g} GPUs, but got "
            f"cpus-per-trial={cpus_per_trial:g}, gpus-per-trial={gpus_per_trial:g}; ask for less or add a node"
        )
    return slots


def autoscaled_nodes(path: Path) -> list[dict[str, float]]:
    """Return the resources of each worker that `ray up` lets its autoscaler start, the largest kinds first.

    Args:
        path: The cluster file as `ray up` leaves it on the head; absent where nothing scales.
    """
    config = _cluster_file(path)
    kinds = config.get("available_node_types") or {}
    n_left, nodes = int(config.get("max_workers", 0)), []
    for name, kind in sorted(kinds.items(), key=lambda item: -sum((item[1].get("resources") or {}).values())):
        n_most = 0 if name == config.get("head_node_type") else int(kind.get("max_workers", n_left))
        n_nodes = min(n_left, n_most)
        nodes += [{key: float(value) for key, value in (kind.get("resources") or {}).items()}] * n_nodes
        n_left -= n_nodes
    return nodes


def _slots_of(node: dict[str, float], cpus: float, gpus: float) -> int:
    fits = int(node.get("CPU", 0.0) / cpus + 1e-9)
    if gpus == 0:
        return fits
    # whole GPUs are given to one trial, fractions never span two
    n_gpus = node.get("GPU", 0.0)
    by_gpu = int(n_gpus / gpus + 1e-9) if gpus >= 1 else int(n_gpus) * int(1 / gpus + 1e-9)
    return min(fits, by_gpu)


def _has_cluster_here() -> bool:
    return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").exists()
