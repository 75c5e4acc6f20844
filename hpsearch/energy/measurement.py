"""Measuring the sub-networks of a finished search, one at a time, alone on the device."""

import datetime
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from greenprune_core.card import read_card
from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.measure import Effort, Measurement, Meter, measure_idle, measure_inference
from greenprune_core.networks import build_network
from greenprune_core.subnetwork import load_subnetwork
from hpsearch.energy.measured import network_key, write_measurements
from hpsearch.fold import each_seed
from hpsearch.lock import MeasureLock
from hpsearch.search_run import SearchRun

SUBNETWORKS = "subnetworks"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How every network of a run is measured."""

    meter: Meter
    device: str = "cpu"
    batch_sizes: tuple[int, ...] = (1, 256)
    power_w: float | None = None
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        wrong = [size for size in self.batch_sizes if size < 1]
        if wrong or not self.batch_sizes:
            raise ConfigError(f"a batch size is at least 1, but got {wrong or 'none'}; 1 and 256 are usual")


@dataclass(frozen=True)
class Subject:
    """A network to measure."""

    trial_id: str
    network: nn.Module
    input_shape: tuple[int, ...]
    key: str | None


def choose_trials(run: SearchRun, trial_ids: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """Return the rows to measure: the asked ones, else the front and its controls; only those with a saved sub-network.

    Of a configuration with several seeds all are measured: each has a network of its own, and any may be picked.

    Raises:
        ConfigError: an unknown trial, or nothing with a saved sub-network.
    """
    by_id = {row["trial_id"]: row for row in [*run.rows, *run.controls]}
    unknown = [trial_id for trial_id in trial_ids if trial_id not in by_id]
    if unknown:
        known = ", ".join(list(by_id)[:5]) or "none"
        raise ConfigError(
            f"a trial to measure is one of the run's, but got {unknown[0]!r}; finished ones: {known}, ..."
        )
    asked: list[Mapping[str, Any]] = [by_id[trial_id] for trial_id in trial_ids]
    seeds = [by_id[str(seed["trial_id"])] for member in run.compared.members for seed in each_seed(member)]
    wanted = asked or [*seeds, *run.controls]
    if not wanted:
        raise ConfigError(f"measuring needs finished trials, but {run.storage} has none on its front; wait or resume")
    missing = [
        row["trial_id"] for row in wanted if not run.storage.exists(f"{SUBNETWORKS}/{row['trial_id']}/card.json")
    ]
    if missing and (trial_ids or len(missing) == len(wanted)):
        raise ConfigError(
            f"measuring needs the saved sub-network of a trial, but {run.storage}/{SUBNETWORKS} lacks "
            f"{', '.join(missing[:5])}; choose others with --trial"
        )
    return [row for row in wanted if row["trial_id"] not in missing]


def measure_run(
    run: SearchRun,
    rows: Sequence[Mapping[str, Any]],
    conditions: Conditions,
    on_measured: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure the sub-networks of `rows` and the dense networks behind them, and write the run's table as it grows.

    Args:
        run: opened for reading; `measurements.parquet` in its folder is written.
        rows: from `choose_trials`.
        conditions: meter, device, batch sizes.
        on_measured: called with each finished line of the table.

    Returns:
        The lines of the table that were measured now.

    Raises:
        MeterUnavailableError: the device is not ours alone.
    """
    lock = MeasureLock(run.storage)
    try:
        idle_power_w = measure_idle(conditions.meter, conditions.effort.idle_s, conditions.device)
        lines: list[dict[str, Any]] = []
        for subject in _subjects(run, rows):
            for batch_size in conditions.batch_sizes:
                measured = _measure(subject, batch_size, conditions, idle_power_w)
                line = _line(subject, measured, conditions)
                write_measurements(run.storage, [line])
                lines.append(line)
                if on_measured is not None:
                    on_measured(line)
    finally:
        lock.release()
    return lines


def _measure(subject: Subject, batch_size: int, conditions: Conditions, idle_power_w: float | None) -> Measurement:
    # the same images for all: their values do not matter for time, but denormal numbers would
    generator = torch.Generator().manual_seed(0)
    try:
        images = torch.rand(batch_size, *subject.input_shape, generator=generator).to(conditions.device)
        return measure_inference(
            subject.network.to(conditions.device),
            images,
            meter=conditions.meter,
            power_w=conditions.power_w,
            effort=conditions.effort,
            idle_power_w=idle_power_w,
        )
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        raise ConfigError(
            f"a batch fits into the memory of {conditions.device}, but got batch size {batch_size} for "
            f"{subject.trial_id}; take a smaller --batch-size (what was measured before is kept)"
        ) from error


def _lacks_memory(error: RuntimeError) -> bool:
    """Say whether torch found no memory; on a processor it has no exception of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _subjects(run: SearchRun, rows: Sequence[Mapping[str, Any]]) -> Iterator[Subject]:
    """Load one network at a time: the dense ones first, then the sub-networks."""
    with tempfile.TemporaryDirectory(prefix="greenprune-measure-") as scratch:
        seen = set()
        for row in rows:
            folder = _fetch(run, row["trial_id"], Path(scratch))
            key = network_key(row.get("config"))
            if key is not None and key not in seen:
                seen.add(key)
                dense = _build_dense(row["config"], read_card(folder), key)
                if dense is not None:
                    yield dense
        for row in rows:
            folder = _fetch(run, row["trial_id"], Path(scratch))
            shape = tuple(read_card(folder)["input_shape"])
            yield Subject(row["trial_id"], load_subnetwork(folder), shape, network_key(row.get("config")))


def _fetch(run: SearchRun, trial_id: str, scratch: Path) -> Path:
    if run.storage.local is not None:
        return run.storage.local / SUBNETWORKS / trial_id
    folder = scratch / trial_id
    if not folder.exists():
        run.storage.get_folder(f"{SUBNETWORKS}/{trial_id}", folder)
    return folder


def _build_dense(config: Mapping[str, Any], card: Mapping[str, Any], key: str) -> Subject | None:
    """Build the dense network anew (its weights do not matter here); None where it is the user's own, unknown here."""
    shape, classes = tuple(card["input_shape"]), card.get("classes")
    if classes is None:
        return None
    try:
        network = build_network(
            TrialConfig.from_dict(config).network,
            n_classes=len(classes),
            in_channels=shape[0],
            image_size=shape[-1],
        )
    except ConfigError:
        return None
    return Subject(f"dense:{key}", network, shape, key)


def _line(subject: Subject, measured: Measurement, conditions: Conditions) -> dict[str, Any]:
    energy = measured.energy_j
    return {
        "trial_id": subject.trial_id,
        "network": subject.key,
        "batch_size": measured.batch_size,
        "latency_s": measured.latency_s.median,
        "latency_low_s": measured.latency_s.low,
        "latency_high_s": measured.latency_s.high,
        "throughput_per_s": measured.throughput_per_s,
        "energy_j": energy.median if energy else None,
        "energy_low_j": energy.low if energy else None,
        "energy_high_j": energy.high if energy else None,
        "energy_source": measured.energy_source,
        "idle_power_w": measured.idle_power_w,
        "n_windows": measured.latency_s.n,
        "n_inferences": measured.n_inferences,
        "n_threads": torch.get_num_threads(),
        "device": device_name(conditions.device),
        "meter": f"declared {conditions.power_w:g} W" if conditions.power_w else conditions.meter.description,
        "warnings": list(measured.warnings),
        "measured_at": datetime.datetime.now(datetime.UTC),
        "version": f"greenprune {importlib.metadata.version('greenprune')}, torch {torch.__version__}",
    }


def device_name(device: str) -> str:
    """Return the name of a processor or GPU as its maker calls it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} logical processors)" if names else "cpu"


def name_place(device: str) -> str:
    """Say on what is measured: the device, and for a processor the threads."""
    n_threads = torch.get_num_threads()
    threads = f", {n_threads} thread{'s' if n_threads > 1 else ''}" if device == "cpu" else ""
    return f"{device_name(device)}{threads}"
