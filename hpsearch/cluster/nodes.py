"""What every node must have before a search starts on it: the same packages, the storage, the data set.

Nodes that join later are not looked at; there a trial fails with the same reasons.
"""

import functools
import hashlib
import logging
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greenprune_core.config import DataConfig
from greenprune_core.errors import ConfigError
from hpsearch import provenance
from hpsearch.storage import RunStorage

logger = logging.getLogger(__name__)

OURS = ("greenprune_core", "search_spaces", "hpsearch")
MARK = ".nodes"
"""File of the run's folder for which each node looks."""
LATE_S = 10.0
"""How long a shared folder may take to show a new file on another machine (NFS keeps names for seconds)."""
ANSWER_S = 600.0
"""How long the nodes may take to answer: they fetch the data set, each once, before the first trial."""


@dataclass(frozen=True, kw_only=True)
class NodeLook:
    """What was found on one node."""

    name: str
    versions: Mapping[str, str | None]
    sees_storage: bool
    data_problem: str | None


def check_nodes(storage: RunStorage, data: DataConfig, data_dir: str | None) -> None:
    """Let every other node that can run trials look for packages, storage and data; one machine alone is not asked.

    The data set is fetched meanwhile, once per node.

    Raises:
        ConfigError: what the nodes lack, each named.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    others = [
        node["NodeID"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU", 0) > 0
    ]
    if not others:
        return
    mark = storage.local / f"{MARK}-{uuid.uuid4().hex}" if storage.local is not None else None
    if mark is not None:
        mark.touch()
    try:
        looks = _ask(others, str(mark) if mark else None, data, data_dir)
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)
    problems = find_problems(looks, versions(), str(storage), platform.node())
    if problems:
        raise ConfigError(
            f"every node needs the packages, the storage and the data of the search, but {'; '.join(problems)}; "
            "run `ray up` again, or see docs/cluster.md"
        )


def _ask(nodes: list[str], mark: str | None, data: DataConfig, data_dir: str | None) -> list[NodeLook]:
    """Return what was found on the nodes that answered."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look_here)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            mark, asdict(data), data_dir
        )
        for node in nodes
    ]
    ready, late = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    if late:
        logger.warning("%d of %d nodes did not say within %g s what they have", len(late), len(asked), ANSWER_S)
    return [look for answer in ready if (look := _answer(answer)) is not None]


def look_here(mark: str | None, data: dict[str, Any], data_dir: str | None) -> NodeLook:
    """Look at this node; runs as a Ray task."""
    from greenprune_core.data import load_data

    ends = time.monotonic() + LATE_S
    while not (sees := mark is None or Path(mark).exists()) and time.monotonic() < ends:
        time.sleep(0.5)
    problem = None
    try:
        load_data(DataConfig(**data), data_dir)
    except Exception as error:  # noqa: BLE001  a loader of the user's own may raise anything
        problem = " ".join(f"{type(error).__name__}: {error}".split())
    return NodeLook(name=platform.node(), versions=versions(), sees_storage=sees, data_problem=problem)


def find_problems(looks: list[NodeLook], wanted: Mapping[str, str | None], storage: str, driver: str) -> list[str]:
    """Return what the nodes lack, one text per kind of problem with the nodes named.

    Args:
        looks: what was found on each node.
        wanted: versions on the driver's node.
        storage: the run, as the user wrote it.
        driver: name of the driver's node.
    """
    found: dict[str, list[str]] = {}
    for look in looks:
        if not look.sees_storage:
            what = f"see another folder than {driver} at {storage} (use s3://, gs:// or a folder shared by all)"
            found.setdefault(what, []).append(look.name)
        for package, version in wanted.items():
            if look.versions.get(package) != version:
                what = f"have {package} {look.versions.get(package)}, where {driver} has {version}"
                found.setdefault(what, []).append(look.name)
        if look.data_problem is not None:
            found.setdefault(f"cannot reach the data: {look.data_problem}", []).append(look.name)
    return [f"{', '.join(sorted(names))} {what}" for what, names in found.items()]


def versions() -> dict[str, str | None]:
    """Return the versions that decide a trial's numbers; our own code by its content, as it may be a clone's."""
    found: dict[str, str | None] = dict(provenance.describe()["packages"])
    return {**found, "greenprune": f"{found['greenprune']} ({_digest()})"}


@functools.cache
def _digest() -> str:
    """Return eight digits that change with any line of our three packages."""
    content = hashlib.sha256()
    for name, path in our_sources().items():
        content.update(name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:8]


def our_sources() -> dict[str, Path]:
    """Return the files of our three packages on this node, by their path inside the installation, in order."""
    import hpsearch

    root = Path(hpsearch.__file__).absolute().parents[1]  # not resolved: uv may have linked the files into one cache
    paths = [path for package in OURS for path in sorted((root / package).rglob("*.py"))]
    return {str(path.relative_to(root)): path for path in paths}


def _answer(answer: Any) -> NodeLook | None:
    import ray

    try:
        look: NodeLook = ray.get(answer)
    except ray.exceptions.RayError as error:
        logger.warning("a node could not be looked at: %s", " ".join(str(error).split())[:300])
        return None
    return look
