"""Where a result comes from: versions, commit, devices. Stored with the run and, in short, with every row."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("greenprune", "ray", "optuna", "torch", "torchvision", "pyarrow", "numpy")


@functools.cache
def version() -> str:
    """Return the installed version, with the commit where the package runs from a clone: `0.1.0+3bc4a80`."""
    commit = _commit()
    return f"{_installed('greenprune') or 'unknown'}{'+' + commit if commit else ''}"


def describe() -> dict[str, Any]:
    """Return versions and machine for a run's settings.json."""
    return {
        "version": version(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": platform.node(),
        "n_processors": os.cpu_count(),
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the clone's short commit, `-dirty` behind it when files differ; None outside a clone or without git."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
