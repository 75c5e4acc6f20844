"""What works on this machine and what does not: versions, processor, GPUs, meters, data sets, Ray's ports.

Every check looks and reports; none installs, downloads or starts anything.
"""

import importlib.metadata
import importlib.util
import ipaddress
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from greenprune_core.errors import ConfigError

State = Literal["works", "limited", "missing"]

OLDEST_TORCH = (2, 11)
NEEDED = ("greenprune", "torch", "torchvision", "ray", "optuna", "pyarrow", "scikit-learn")
EXTRAS = {
    "onnx": ("onnx", "onnxscript", "pick --export --format onnx"),
    "cluster": ("aiohttp", "jsonschema", "ray job submit, the dashboard, doctor --cluster"),
    "aws": ("boto3", "boto3", "ray up on AWS"),
    "gcp": ("googleapiclient", "googleapiclient", "ray up on Google Cloud"),
    "dashboard": ("optuna_dashboard", "optuna_dashboard", "optuna-dashboard on study.journal"),
}
RAY_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard and jobs", 10001: "Ray's client server"}
SHARED_MEMORY = Path("/dev/shm")
LEAST_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor: what was looked at, how it stands, and what to do where it does not work."""

    topic: str
    """Group it is shown under, e.g. versions."""
    name: str
    """What was looked at."""
    state: State
    """works; limited: works with a restriction that is named; missing: does not work here."""
    detail: str
    """What was found, and the way out where something is limited or missing."""


def examine(data_dir: str | None = None, storage: str = "./runs") -> list[Finding]:
    """Look at everything a search on this machine needs, in the order in which it is shown.

    Args:
        data_dir: Folder of data sets, as for --data-dir.
        storage: Where runs would be kept; its free space is reported.
    """
    return [*versions(), *machine(storage), *gpus(), *meters(), *profiles(), *data_sets(data_dir), *open_ports()]


def versions() -> Iterator[Finding]:
    """Versions of Python and of what we stand on, and which extras are there."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(topic="versions", name="python", state="works", detail=python)
    for package in NEEDED:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(topic="versions", name=package, state="missing", detail=f"pip install {package}")
            continue
        old = package == "torch" and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH
        detail = f"{version}, but 2.11 is the oldest supported; upgrade it" if old else version
        yield Finding(topic="versions", name=package, state="limited" if old else "works", detail=detail)
    for extra, (*modules, use) in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        detail = f'for {use}: pip install "greenprune[{extra}]"' if absent else use
        yield Finding(topic="versions", name=f"extra {extra}", state="missing" if absent else "works", detail=detail)


def machine(storage: str) -> Iterator[Finding]:
    """Cores, shared memory and free disk where runs and Ray's session go."""
    cores = len(os.sched_getaffinity(0))
    yield Finding(topic="machine", name="cores", state="works", detail=f"{cores} usable")
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        small = free < 2**30
        way_out = "; Ray will use /tmp, slowly: start the container with --shm-size=2g" if small else ""
        detail = f"{_gib(free)} free{way_out}"
        yield Finding(topic="machine", name="shared memory", state="limited" if small else "works", detail=detail)
    if "://" in storage:
        return
    state, detail = _storage(Path(storage))
    yield Finding(topic="machine", name="storage", state=state, detail=detail)


def gpus() -> Iterator[Finding]:
    """GPUs that torch sees, by name and memory; and whether torch and torchvision belong together."""
    try:
        import torch
        import torchvision.ops  # noqa: F401  a torchvision of another torch fails here, with its operators
    except (ImportError, RuntimeError, OSError) as error:
        detail = f"{error}; install torch and torchvision of one release from the same place"
        yield Finding(topic="devices", name="torch", state="missing", detail=" ".join(detail.split()))
        return
    yield Finding(topic="devices", name="cpu", state="works", detail=f"torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        detail = f"none that torch {torch.__version__} can use; trials run on the processor"
        yield Finding(topic="devices", name="gpu", state="missing", detail=detail)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        detail = f"{properties.name}, {_gib(properties.total_memory)}"
        yield Finding(topic="devices", name=f"gpu {index}", state="works", detail=detail)


def meters() -> Iterator[Finding]:
    """Energy meters: NVIDIA's counter and the processor's RAPL counter."""
    yield _nvml()
    yield _rapl()


def profiles() -> Iterator[Finding]:
    """Device profiles that --profile takes by name: what each knows, and how well it predicts what it has not seen."""
    from greenprune_core.cost.profile import load_profile, shipped_profiles

    for name in shipped_profiles():
        profile = load_profile(name)
        knows = ["joules"] if profile.has_joules else []
        knows += [f"seconds at batch {' and '.join(map(str, profile.batch_sizes))}"] if profile.timings else []
        judged = [
            f"{figure['quantity']} at batch {figure['batch_size']} missed by {figure['median_error']:.1%} (median)"
            for figure in (profile.fit or {}).get("held_out", ())
        ]
        use = "" if profile.has_joules else "; for --objective latency"
        detail = f"{' and '.join(knows)}{use}{'; ' if judged else ''}{', '.join(judged)}"
        yield Finding(topic="profiles", name=name, state="works", detail=detail)


def data_sets(data_dir: str | None) -> Iterator[Finding]:
    """Data sets that can be used without a download."""
    from greenprune_core.data import fashion_mnist
    from greenprune_core.home import cache_folder

    yield Finding(topic="data", name="digits", state="works", detail="comes with scikit-learn")
    folder = fashion_mnist.find_folder(data_dir)
    detail = str(folder) if folder else "apt install dataset-fashion-mnist, or --data-dir, or a network at first use"
    yield Finding(topic="data", name="fashion_mnist", state="works" if folder else "missing", detail=detail)
    roots = [*([Path(data_dir)] if data_dir else []), cache_folder()]
    for name, inner in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")):
        found = next((root / inner for root in roots if (root / inner).is_dir()), None)
        detail = str(found) if found else f"put {inner} under --data-dir, or a network at first use"
        yield Finding(topic="data", name=name, state="works" if found else "missing", detail=detail)
    inner = "tiny-imagenet-200"
    found = next((root / inner for root in roots if (root / inner / "wnids.txt").is_file()), None)
    detail = str(found) if found else f"unpack {inner} and name its folder with --data-dir"
    yield Finding(topic="data", name="tiny_imagenet", state="works" if found else "missing", detail=detail)


def open_ports(tables: Iterable[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> Iterator[Finding]:
    """Ray's ports that listen here beyond loopback: who reaches one can run code as this user."""
    listening = [pair for table in tables for pair in _listeners(table)]
    for port, what in RAY_PORTS.items():
        open_at = [at for at, open_port in listening if open_port == port and not ipaddress.ip_address(at).is_loopback]
        if not open_at:
            continue
        addresses = " and ".join(dict.fromkeys(open_at))
        detail = f"port {port} listens on {addresses}: let only the cluster's private network reach it (firewall)"
        yield Finding(topic="ports", name=what, state="limited", detail=detail)


def reachable_ports(host: str, timeout_s: float = 2.0) -> Iterator[Finding]:
    """Ray's ports of a head that can be reached from this machine, by trying each.

    Args:
        host: Name or address of the head, as this machine sees it.
        timeout_s: How long a port may take to answer; a firewall that drops packets never does.

    Raises:
        ConfigError: the name has no address, so that nothing is known of its ports.
    """
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:  # the latter of names that no resolver is asked for, like a..b
        raise ConfigError(
            f"--head is a name or address of a machine, but got {host!r}: {error}; give it as this machine knows it"
        ) from error
    found = False
    for port, what in RAY_PORTS.items():
        try:
            socket.create_connection((host, port), timeout_s).close()
        except OSError:
            continue
        found = True
        detail = (
            f"port {port} of {host} answers from here: whoever reaches it can run any code there; "
            "fine inside the cluster's private network only, otherwise close it in the firewall or security group"
        )
        yield Finding(topic="ports", name=what, state="missing", detail=detail)
    if not found:
        ports = ", ".join(map(str, RAY_PORTS))
        yield Finding(topic="ports", name=host, state="works", detail=f"none of {ports} answers from here")


def _storage(path: Path) -> tuple[State, str]:
    try:
        folder = path.expanduser().absolute()
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
    except (OSError, RuntimeError) as error:  # the latter of ~nobody
        reason = getattr(error, "strerror", None) or error
        return "missing", f"{path} cannot be looked at: {reason}; choose another with --storage-path"
    if not os.access(there, os.W_OK):
        return "missing", f"{there} is not writable; choose another with --storage-path"
    detail = f"{_gib(free)} free at {there}"
    return ("limited", f"{detail}; a long search may fill it") if free < LEAST_DISK_BYTES else ("works", detail)


def _nvml() -> Finding:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError as error:
        detail = f"{error}: energy of GPUs is modelled, not measured"
        return Finding(topic="meters", name="nvml", state="missing", detail=detail)
    detail = f"energy counter of GPU 0 reads {joules:.0f} J since the driver was loaded"
    return Finding(topic="meters", name="nvml", state="works", detail=detail)


def _rapl(root: Path = Path("/sys/class/powercap")) -> Finding:
    counters = sorted(root.glob("intel-rapl:[0-9]/energy_uj"))
    if not counters:
        detail = f"no counter under {root}: energy of the processor is modelled, not measured"
        return Finding(topic="meters", name="rapl", state="missing", detail=detail)
    unreadable = [path for path in counters if not os.access(path, os.R_OK)]
    if unreadable:
        detail = f"{unreadable[0]} is for root only (CVE-2020-8694): chmod o+r it where all users are trusted"
        return Finding(topic="meters", name="rapl", state="limited", detail=detail)
    return Finding(topic="meters", name="rapl", state="works", detail=f"{len(counters)} package(s)")


def _listeners(table: Path) -> Iterator[tuple[str, int]]:
    if not table.is_file():
        return
    for line in table.read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state != "0A":  # LISTEN
            continue
        address, port = local.split(":")
        # the kernel prints each 32-bit word of the address in the machine's byte order
        words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
        yield str(ipaddress.ip_address(b"".join(words))), int(port, 16)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
