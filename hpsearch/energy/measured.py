"""The table of measurements in a run's folder, and rows whose joules are measured ones. No torch.

Modelled and measured joules never stand on one front: `with_measured` gives measured joules to the trials that have
them and takes the modelled ones from all others.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from greenprune_core.errors import ConfigError
from hpsearch.storage import RunStorage

TABLE = "measurements.parquet"

_FIELDS = (
    ("trial_id", pa.string(), "", "the trial, or dense:<network> for the network that was pruned"),
    ("network", pa.string(), "", "dense network behind the trial, as name/width"),
    ("batch_size", pa.int64(), "1", "images per pass"),
    ("latency_s", pa.float64(), "s", "median time of one pass over a batch"),
    ("latency_low_s", pa.float64(), "s", "lower end of its 95 % interval"),
    ("latency_high_s", pa.float64(), "s", "upper end of its 95 % interval"),
    ("throughput_per_s", pa.float64(), "1/s", "images per second"),
    ("energy_j", pa.float64(), "J", "median energy of one inference above idle; null if not measured"),
    ("energy_low_j", pa.float64(), "J", "lower end of its 95 % interval"),
    ("energy_high_j", pa.float64(), "J", "upper end of its 95 % interval"),
    ("energy_source", pa.string(), "", "nvml, nvml-polled, rapl or time*power; null without energy"),
    ("idle_power_w", pa.float64(), "W", "power of the idle device, subtracted"),
    ("n_windows", pa.int64(), "1", "windows behind the medians"),
    ("n_inferences", pa.int64(), "1", "images in all windows"),
    ("n_threads", pa.int64(), "1", "threads of the arithmetic"),
    ("device", pa.string(), "", "what was measured"),
    ("meter", pa.string(), "", "what counted, in words"),
    ("warnings", pa.list_(pa.string()), "", "what makes these figures uncertain"),
    ("measured_at", pa.timestamp("us", tz="UTC"), "UTC", "end of the measurement"),
    ("version", pa.string(), "", "version of the code and of torch"),
)

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"unit": unit, "meaning": meaning}) for name, kind, unit, meaning in _FIELDS]
)


def read_measurements(storage: RunStorage) -> list[dict[str, Any]]:
    """Return all measurements of a run; none if nothing was measured yet.

    Raises:
        ConfigError: the table is damaged.
    """
    if not storage.exists(TABLE):
        return []
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(TABLE)))
        found: list[dict[str, Any]] = table.cast(SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{TABLE} is a Parquet file, but that in {storage} is damaged: {reason}; move it away and measure again"
        ) from error
    return found


def write_measurements(storage: RunStorage, new: Iterable[Mapping[str, Any]]) -> None:
    """Add measurements to the table; an older one of the same trial and batch size gives way."""
    rows = {(row["trial_id"], row["batch_size"]): row for row in [*read_measurements(storage), *new]}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows.values()], schema=SCHEMA), sink)
    storage.write_bytes(TABLE, sink.getvalue())


def network_key(config: Mapping[str, Any] | None) -> str | None:
    """Return name/width of the dense network behind a trial's configuration."""
    network = (config or {}).get("network") or {}
    return f"{network['name']}/{network.get('width')}" if "name" in network else None


def with_latency(rows: Sequence[Mapping[str, Any]], measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give every row the measured latency of a single image, where there is one; the energies stay.

    Times of another device or number of threads than the latest do not compare with it, and are left out.
    """
    single = [found for found in measurements if found["batch_size"] == 1]
    latest = _place(max(single, key=lambda found: found["measured_at"])) if single else None
    found = {found["trial_id"]: found for found in single if _place(found) == latest}
    return [
        {**row, "latency_s": found[row["trial_id"]]["latency_s"] if row["trial_id"] in found else row.get("latency_s")}
        for row in rows
    ]


def with_measured(
    rows: Sequence[Mapping[str, Any]], measurements: Sequence[Mapping[str, Any]], batch_size: int = 1
) -> list[dict[str, Any]]:
    """Give rows their measured energy and latency; rows without one lose their modelled energy.

    Args:
        rows: of the archive.
        measurements: from `read_measurements`.
        batch_size: which of the measured batch sizes.

    Raises:
        ConfigError: no energy was measured at this batch size, or energies of several sources or devices were.
    """
    at_size = {found["trial_id"]: found for found in measurements if found["batch_size"] == batch_size}
    counted = [found for found in at_size.values() if found["energy_source"]]
    sources = sorted({found["energy_source"] for found in counted})
    if not sources:
        raise ConfigError(
            f"measured energy needs measurements at batch size {batch_size}, but got none with joules; "
            "run hpsearch measure RUN (with --power-w where no counter is)"
        )
    if len(sources) > 1:
        raise ConfigError(
            f"measured energies of one run come from one source, but got {' and '.join(sources)}; "
            "measure all again with one meter"
        )
    ways = sorted({f"{found['meter']} on {_place(found)}" for found in counted})
    if len(ways) > 1:
        raise ConfigError(
            f"measured energies of one run are of one device, meter and number of threads, but got {ways[0]} and "
            f"{ways[1]}; measure all again in one way"
        )
    dense = {found["network"]: found for found in at_size.values() if found["trial_id"].startswith("dense:")}
    return [_measured_row(row, at_size.get(row["trial_id"]), dense) for row in rows]


def _place(found: Mapping[str, Any]) -> str:
    """Say what ran a measured network: times and joules of two such places are never compared."""
    return f"{found['device']}, {found['n_threads']} thread{'' if found['n_threads'] == 1 else 's'}"


def _measured_row(
    row: Mapping[str, Any], found: Mapping[str, Any] | None, dense: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    if found is None or found["energy_j"] is None:
        return {**row, "energy_j": None, "energy_source": None, "dense_energy_j": None}
    reference = dense.get(found["network"] or "")
    return {
        **row,
        "energy_j": found["energy_j"],
        "energy_source": found["energy_source"],
        "dense_energy_j": reference["energy_j"] if reference else None,
        "latency_s": found["latency_s"] / found["batch_size"],
    }
