"""The joules of a trial's training: by a meter where the trial has the device to itself, else by the model.

A GPU counts for one trial when no other shares it, the processors when no other trial runs on the machine. What else
runs there is counted too: NVML refuses a GPU with other processes, RAPL cannot tell them apart.
"""

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from greenprune_core.errors import ConfigError
from greenprune_core.measure.choose import choose_meter
from greenprune_core.measure.meter import Meter, MeterUnavailableError, NoMeter

COLUMNS = ("train_energy_j", "train_energy_source", "train_seconds", "train_macs")
"""Columns of the archive that say what a training has spent, of trials that did not end well too."""


class TrainingMeter:
    """Adds up what a meter counts while it is entered; forgets all once the meter fails.

    Args:
        meter: of the device that the trial has to itself, or a `NoMeter`.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._joules: float | None = None if meter.source is None else 0.0
        self._seconds = 0.0
        self._before: float | None = None
        self._began = 0.0
        self._is_closed = False

    def __enter__(self) -> Self:
        self._before, self._began = self._read(), time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after = self._read()
        self._seconds += time.monotonic() - self._began
        whole = self._joules is not None and self._before is not None and after is not None and after >= self._before
        self._joules = self._joules + after - self._before if whole else None  # type: ignore[operator]

    def columns(self) -> dict[str, Any]:
        """Return the joules so far and their source; nothing where none were counted, or not all, or too shortly."""
        if not self._joules or self._seconds < self._meter.window_s:
            return {}
        return {"train_energy_j": self._joules, "train_energy_source": self._meter.source}

    def close(self) -> None:
        """Let go of the device; what was counted stays known."""
        if not self._is_closed:
            self._meter.close()
        self._is_closed = True

    def _read(self) -> float | None:
        if self._joules is None:
            return None
        try:
            self._meter.check()
            return self._meter.read_j()
        except MeterUnavailableError:
            return None


def open_training_meter(task: Mapping[str, Any], *, is_continued: bool) -> TrainingMeter:
    """Open the meter of a trial; one that counts nothing where others share the device.

    Args:
        task: of the trial, see `hpsearch.tuner.task`.
        is_continued: begun by another process, whose joules are not known here.

    Raises:
        MeterUnavailableError: a meter asked for by name does not work here.
    """
    name, repeats = task.get("meter", "none"), task.get("repeats", 1)
    is_ours = is_exclusive(task["cpus"], task["gpus"], is_alone=task.get("is_alone", False))
    if name == "none" or is_continued or repeats > 1 or not is_ours:
        return TrainingMeter(NoMeter())
    # Ray shows a trial its own GPUs only: the first of them
    return TrainingMeter(choose_meter(name, "cuda" if task["gpus"] else "cpu"))


def is_exclusive(cpus: float, gpus: float, *, is_alone: bool) -> bool:
    """Say whether a trial has what it runs on to itself: one whole GPU, or all processors of this machine.

    Args:
        cpus: processors per trial.
        gpus: GPUs per trial.
        is_alone: the search runs one trial at a time.
    """
    if gpus:
        return gpus == 1 or (is_alone and gpus < 1)
    return is_alone or cpus >= (os.cpu_count() or 1)


def check_meter(name: str, *, cpus: float, gpus: float, max_concurrent: int | None, repeats: int) -> None:
    """Refuse a meter asked for by name that could not count a single trial of the search.

    Raises:
        ConfigError: several trials share the device, or one trial is several trainings.
    """
    if name in ("auto", "none"):
        return
    if (name == "rapl") == bool(gpus):
        raise ConfigError(
            f"rapl counts trials on processors and nvml those on GPUs, but got --meter {name} with "
            f"--gpus-per-trial {gpus:g}; take --meter auto"
        )
    if repeats > 1:
        raise ConfigError(
            f"a meter counts one training per trial, but got --meter {name} with --repeats {repeats}; "
            "leave one of them out"
        )
    if not is_exclusive(cpus, gpus, is_alone=max_concurrent == 1):
        raise ConfigError(
            f"a meter counts one trial at a time, but got --meter {name} with trials side by side; add "
            "--max-concurrent 1, give each trial a whole GPU or all processors, or take --meter auto"
        )


def try_meter(name: str, *, gpus: float) -> None:
    """Open a meter asked for by name once, so that a machine without it refuses the search and not every trial.

    Raises:
        MeterUnavailableError: it does not work on this machine.
    """
    if name not in ("auto", "none"):
        choose_meter(name, "cuda" if gpus else "cpu").close()


def spent_by(trial: Any) -> dict[str, Any]:
    """Return what a trial under way has spent by the model; nothing for a kind of trial that does not know it."""
    found: dict[str, Any] = trial.spent() if hasattr(trial, "spent") else {}
    return found
