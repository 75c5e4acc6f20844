"""Check a Ray cluster file before it costs money: what is unedited, invalid, unsafe, and what an hour costs."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from greenprune_core.errors import ConfigError
from hpsearch.doctor import Finding

UNEDITED = "EDIT-ME"

DOLLARS_PER_HOUR = {
    "m6i.large": 0.096, "m6i.xlarge": 0.192, "m6i.2xlarge": 0.384, "c6i.4xlarge": 0.68,
    "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.12xlarge": 3.912,
    "g5.xlarge": 1.006, "g5.12xlarge": 5.672, "g6.xlarge": 0.805, "g6.12xlarge": 4.602,
    "n2-standard-2": 0.097, "n1-standard-4": 0.19, "n1-standard-8": 0.38, "g2-standard-4": 0.707,
}  # fmt: skip
"""On-demand list prices in `PRICED_REGIONS`, rounded, without disks, traffic and tax: a ceiling for spot.

Noted in early 2025. Looked up again in 2026 in SkyPilot's catalogue (skypilot-org/skypilot-catalog, v8): g4dn.xlarge
(spot 0.24 to 0.25 in us-west-2) and g5.12xlarge, both unchanged; the others were not.
"""

ACCELERATOR_DOLLARS_PER_HOUR = {"nvidia-tesla-t4": 0.35, "nvidia-l4": 0.56, "nvidia-tesla-v100": 2.48}
"""Google's price of an accelerator beside its machine, of the same date."""


PRICED_REGIONS = ("us-east-1", "us-east-2", "us-west-2", "us-central1", "us-east1", "us-west1")
"""Amazon's and Google's cheapest regions in the US; others cost up to half as much again."""

PRICE_PAGES = {"aws": "aws.amazon.com/ec2/pricing/on-demand", "gcp": "cloud.google.com/compute/all-pricing"}


def examine_cluster(path: Path) -> list[Finding]:
    """Look at a file for `ray up`, in the order in which it is shown.

    Raises:
        ConfigError: there is no such file, or it is no YAML mapping.
    """
    text, config = _read(path)
    findings = [*unedited(text), *validity(config)]
    if any(finding.topic == "schema" and finding.state == "missing" for finding in findings):
        return findings  # the rest reads fields whose types the schema guarantees
    return [*findings, *traps(config), *safety(config), *cost(config)]


def unedited(text: str) -> Iterator[Finding]:
    """Places still marked EDIT-ME, each with its line."""
    places = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if _is_unedited(line)]
    for number, line in places:
        marks = ", ".join(dict.fromkeys(re.findall(rf"{UNEDITED}[A-Z0-9-]*", line)))
        detail = f"still has {marks}: {line.strip()}"
        yield Finding(topic="edit", name=f"line {number}", state="missing", detail=detail)
    if not places:
        yield Finding(topic="edit", name="places", state="works", detail=f"none is marked {UNEDITED} any more")


def validity(config: Mapping[str, Any]) -> Iterator[Finding]:
    """The verdict of Ray's own schema, after Ray's own defaults."""
    try:
        problem = _schema_problem(config)
    except ImportError as error:
        detail = f'not checked ({error}): pip install "greenprune[cluster]"'
        yield Finding(topic="schema", name="ray", state="limited", detail=detail)
        return
    yield Finding(topic="schema", name="ray", state="missing" if problem else "works", detail=problem or "valid")


def traps(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Settings that pass the schema and then fail: local storage, the second autoscaler, GPUs that nobody has."""
    settings = search_settings(config)
    storage = settings.get("HPSEARCH_STORAGE_PATH")
    n_workers = _n_workers(config)
    if n_workers and (storage is None or not ("://" in storage or storage.startswith(("/", UNEDITED)))):
        detail = f"must be one that all nodes see, but is {storage or './runs'}: name s3://, gs:// or a shared folder"
        yield Finding(topic="storage", name="HPSEARCH_STORAGE_PATH", state="missing", detail=detail)
    starts = " ".join(config.get("head_start_ray_commands") or [])
    if config["provider"]["type"] == "local" and "RAY_enable_autoscaler_v2=0" not in starts:
        detail = (
            "Ray's second autoscaler leaves a machine out (ray #59905): start the head with "
            "`export RAY_enable_autoscaler_v2=0; ray start --head ...` as deploy/on_prem.yaml does"
        )
        yield Finding(topic="start", name="autoscaler", state="missing", detail=detail)
    yield from _too_many_gpus(config, settings.get("HPSEARCH_GPUS_PER_TRIAL", "0"))


def _too_many_gpus(config: Mapping[str, Any], text: str) -> Iterator[Finding]:
    try:
        asked = float(text)
    except ValueError:
        detail = f"must be a number, but is {text}: write e.g. HPSEARCH_GPUS_PER_TRIAL=0.25"
        yield Finding(topic="start", name="gpus per trial", state="missing", detail=detail)
        return
    kinds = config.get("available_node_types", {}).values()
    offered = max((kind.get("resources", {}).get("GPU", 0) for kind in kinds), default=None)
    if offered is not None and asked > offered:
        detail = f"{asked:g} asked, but no node type has more than {offered}: add one or lower HPSEARCH_GPUS_PER_TRIAL"
        yield Finding(topic="start", name="gpus per trial", state="missing", detail=detail)


def safety(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Doors open to the world: an open Ray port is remote code execution."""
    starts = " ".join(config.get("head_start_ray_commands") or [])
    if re.search(r"--dashboard-host[= ](0\.0\.0\.0|::)", starts):
        detail = "the dashboard takes jobs from anybody who reaches it: leave it on loopback and use `ray dashboard`"
        yield Finding(topic="safety", name="dashboard", state="limited", detail=detail)
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        ranges = [
            entry.get("CidrIp") or entry.get("CidrIpv6")
            for entry in (*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", []))
        ]
        world = {"0.0.0.0/0", "::/0"} & set(ranges)
        if world and (rule.get("FromPort"), rule.get("ToPort")) != (22, 22):
            ports = f"{rule.get('FromPort', 'all')}-{rule.get('ToPort', 'all')}"
            detail = f"ports {ports} are open to the world; Ray runs any code sent to it: narrow the source"
            yield Finding(topic="safety", name="security group", state="limited", detail=detail)


def cost(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Dollars an hour with no worker and with all of them, at list prices."""
    kinds = config.get("available_node_types")
    if not kinds:
        yield Finding(topic="cost", name="nodes", state="works", detail="machines of your own")
        return
    head = kinds[config["head_node_type"]]
    prices = {name: _price(kind["node_config"]) for name, kind in kinds.items()}
    unknown = sorted(name for name, price in prices.items() if price is None)
    if unknown:
        machine = _machine(kinds[unknown[0]]["node_config"])
        detail = f"no price known for {machine}: look it up and count {_n_workers(config)} workers beside the head"
        yield Finding(topic="cost", name="nodes", state="limited", detail=detail)
        return
    workers = [(prices[name] or 0.0, kind) for name, kind in kinds.items() if kind is not head]
    counted = _dearest(workers, config.get("max_workers", 2))
    most = sum(n * price for n, price, _ in counted)
    idle = prices[config["head_node_type"]] or 0.0
    nodes = " and ".join(f"{n} {_machine(kind['node_config'])}" for n, _, kind in counted if n) or "no worker"
    region = config["provider"].get("region")
    elsewhere = "" if region in (None, *PRICED_REGIONS) else f", {region} may cost up to half as much again"
    detail = (
        f"at most ${idle + most:.2f} an hour with {nodes} beside the {_machine(head['node_config'])}, ${idle:.2f} with "
        f"the head alone (on-demand list prices of early 2025 in the cheapest US regions{elsewhere}; without disks and "
        f"traffic; spot is usually a third to a half; today's: {PRICE_PAGES.get(config['provider']['type'], '-')})"
    )
    yield Finding(topic="cost", name="nodes", state="limited" if elsewhere else "works", detail=detail)


def search_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The HPSEARCH_* variables that the file's setup commands write."""
    text = " ".join(config.get("setup_commands") or [])
    # up to where the shell ends a word: a quote around the value or the whole command is no part of it
    return dict(re.findall(r"""(HPSEARCH_[A-Z_]+)=["']?([^\s"';]+)""", text))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(
            f"--cluster names a cluster file, but got {path}, which is none; start from cluster.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a cluster file is readable text, but {path} is not: {error}; check its rights and encoding"
        ) from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a cluster file is YAML, but {path} is not: {error}; correct that line") from error
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict) or "type" not in config["provider"]:
        raise ConfigError(f"a cluster file has a provider with a type, but {path} has none; start from cluster.yaml")
    return text, config


def _is_unedited(line: str) -> bool:
    return UNEDITED in line and not line.lstrip().startswith("#")


def _schema_problem(config: Mapping[str, Any]) -> str | None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.WARNING)
    chatter = io.StringIO()  # Ray prints a note for each mounted file
    try:
        with contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            validate_config(prepare_config(dict(config)))
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the top level"
        return f"{where}: {error.message}"
    except (TypeError, AttributeError) as error:
        # Ray merges fields before it looks at their types
        empty = ", ".join(name for name, value in config.items() if value is None) or "none at the top level"
        return f"a field is empty or not of Ray's type ({error}); empty: {empty}; fill it in or leave it out"
    except (ValueError, KeyError, RuntimeError, SystemExit) as error:
        return " ".join(f"{error} {chatter.getvalue()}".split())[:300]
    return None


def _n_workers(config: Mapping[str, Any]) -> int:
    provider = config["provider"]
    default = len(provider.get("worker_ips") or []) if provider["type"] == "local" else 2
    return int(config.get("max_workers", default))


def _machine(node_config: Mapping[str, Any]) -> str:
    return str(node_config.get("InstanceType") or node_config.get("machineType") or "unnamed machine")


def _price(node_config: Mapping[str, Any]) -> float | None:
    price = DOLLARS_PER_HOUR.get(_machine(node_config))
    for accelerator in node_config.get("guestAccelerators", []):
        extra = ACCELERATOR_DOLLARS_PER_HOUR.get(accelerator["acceleratorType"])
        price = None if price is None or extra is None else price + extra * accelerator.get("acceleratorCount", 1)
    return price


def _dearest(workers: list[tuple[float, Mapping[str, Any]]], n_most: int) -> list[tuple[int, float, Mapping[str, Any]]]:
    """Number, price and kind of the dearest workers that the limits allow together."""
    counted = []
    for price, kind in sorted(workers, key=lambda pair: -pair[0]):
        n = min(n_most, kind.get("max_workers", n_most))
        counted.append((n, price, kind))
        n_most -= n
    return counted
