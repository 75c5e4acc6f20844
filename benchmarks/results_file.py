"""A dated result file with machine, versions and seeds, the same for all benchmarks."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "torchvision", "ray", "optuna", "pyarrow", "numpy")


def write_result(name: str, settings: Mapping[str, Any], results: Any) -> Path:
    """Write `results/<name>-<date>.json` and return its path; a second run on one day replaces the first.

    Args:
        name: of the benchmark.
        settings: what decided the run: sizes, seeds, repetitions.
        results: figures, with n and spread.
    """
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    record = {
        "benchmark": name,
        "finished_at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "settings": dict(settings),
        "results": results,
    }
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(record, indent=1) + "\n")
    aside.replace(path)
    return path


def machine() -> dict[str, Any]:
    """Describe this machine: GPU, processor, cores, load when asked."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
