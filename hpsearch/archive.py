"""The archive: one Parquet part per finished trial, one schema with units.

Each part is named after its trial and written whole, so that writing a trial twice leaves one row, a reader never sees
half a row, and the table can be read while the search runs. Only the driver writes.
"""

import dataclasses
import datetime
import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from greenprune_core.errors import ConfigError
from hpsearch.shapes import SHAPES
from hpsearch.storage import RunStorage
from hpsearch.visible import all_visible, visible

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Version of the columns; raised when a column changes its meaning or goes, not when a nullable one comes."""

TRIALS_FOLDER = "trials"
CONTROLS_FOLDER = "controls"
"""Rows of dense and uniformly narrower networks, in the same columns; no part of the search."""
STATES = ("complete", "stopped", "failed")

_VERSION_KEY = b"greenprune.schema_version"
_TIME = pa.timestamp("us", tz="UTC")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_READERS = 8


@dataclass(frozen=True)
class Column:
    """One column of the archive."""

    name: str
    type: pa.DataType
    unit: str
    """Unit of the values, `1` for counts and shares, `json` for structured text, empty for plain text."""
    meaning: str

    def to_field(self) -> pa.Field:
        """Return the Arrow field, with the unit in its metadata."""
        return pa.field(self.name, self.type, self.name not in ("trial_id", "state"), metadata={"unit": self.unit})


COLUMNS = (
    Column("trial_id", pa.string(), "", "identity of the trial in its run"),
    Column("state", pa.string(), "", "complete, stopped (early) or failed"),
    Column("config_hash", pa.string(), "", "identity of the configuration"),
    Column("seed", pa.int64(), "1", "seed of weights, order, augmentation and noise"),
    Column("params", pa.string(), "json", "the draws of the search space: {name: value}"),
    Column("config", pa.string(), "json", "the resolved TrialConfig"),
    Column("control", pa.string(), "", "dense or uniform_width for a row of controls/, null for a searched trial"),
    Column("val_accuracy", pa.float64(), "1", "share of the validation images that the cut network gets right"),
    Column("test_accuracy", pa.float64(), "1", "share of the test images that it gets right; never searched on"),
    Column("dense_macs", pa.int64(), "MAC", "multiply-accumulates of one inference of the dense network"),
    Column("macs", pa.int64(), "MAC", "multiply-accumulates of one inference of the cut network"),
    Column("dense_params", pa.int64(), "1", "parameters of the dense network"),
    Column("params_kept", pa.int64(), "1", "parameters of the cut network"),
    Column("energy_j", pa.float64(), "J", "energy of one inference of the cut network"),
    Column("dense_energy_j", pa.float64(), "J", "energy of one inference of the dense network, from the same source"),
    Column("energy_source", pa.string(), "", "model:<profile>, nvml, rapl or time*power"),
    Column("latency_s", pa.float64(), "s", "measured time of one inference; null if not measured"),
    Column("model_latency_s", pa.float64(), "s", "modelled time of one inference; null if the profile has no timings"),
    Column("dense_model_latency_s", pa.float64(), "s", "the same of the dense network"),
    Column("model_latency_source", pa.string(), "", "model:<profile>"),
    Column("train_energy_j", pa.float64(), "J", "energy of the training of this trial"),
    Column("train_energy_source", pa.string(), "", "model:<profile>, nvml, rapl or time*power"),
    Column("train_seconds", pa.float64(), "s", "wall time of the training of this trial"),
    Column("train_macs", pa.int64(), "MAC", "all multiply-accumulates spent in training"),
    Column("epochs", pa.int64(), "1", "passes over the training images that were run"),
    Column("n_validation", pa.int64(), "1", "validation images behind val_accuracy"),
    Column("n_test", pa.int64(), "1", "test images behind test_accuracy"),
    Column("node", pa.string(), "", "host on which the trial ended"),
    Column("device", pa.string(), "", "processor or accelerator on which it ran"),
    Column("started_at", _TIME, "UTC", "start of the trial"),
    Column("finished_at", _TIME, "UTC", "end of the trial"),
    Column("version", pa.string(), "", "version and commit of the code that ran it"),
    Column("error", pa.string(), "", "reason of a failed or stopped trial, null otherwise"),
    Column("gate_histogram", pa.string(), "json", "gates by open fraction at the freeze: counts in equal bins"),
    Column("disagreement", pa.float64(), "1", "mean share of images that differ from the consensus, at the freeze"),
    Column("flips", pa.int64(), "1", "gates moved by the exact repair at the freeze"),
    Column("kept_channels", pa.string(), "json", "per layer in order: {layer: [kept, dense]}"),
    Column("history", pa.string(), "json", "learning curve: [{epoch, phase, val_accuracy, ...}]"),
    Column("phase_cost", pa.string(), "json", "per phase: {phase: {macs, seconds, joules}}"),
    Column("repeats", pa.string(), "json", "repeated seeds behind the means: [{seed, val_accuracy, energy_j, ...}]"),
    Column("details", pa.string(), "json", "further figures of the trial, for people: {name: value}"),
)

SCHEMA = pa.schema([column.to_field() for column in COLUMNS], metadata={_VERSION_KEY: str(SCHEMA_VERSION)})


@dataclass(frozen=True)
class Trials:
    """What was read of a run's archive."""

    table: pa.Table
    """One row per readable part, in the columns of `SCHEMA`, ordered by the end of the trial."""
    damaged: tuple[tuple[str, str], ...]
    """Path and reason of every part that could not be read."""


def write_trial(storage: RunStorage, row: Mapping[str, Any], folder: str = TRIALS_FOLDER) -> None:
    """Write one finished trial as its own part; writing the same `trial_id` again replaces the row.

    Args:
        storage: the run.
        row: values by column name; absent columns are null. Columns of unit json take plain lists and dictionaries,
            times take aware datetimes or ISO text.
        folder: of the run, for the part; searched trials and controls lie apart.

    Raises:
        ConfigError: a column that the schema does not have, a value that does not fit, or an unknown state.
    """
    trial_id = part_id(row)
    sink = io.BytesIO()
    # one row: compression and dictionaries save 10 % of the bytes and double the time of reading 10,000 parts
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(to_table([row]), sink, **options)
    storage.write_bytes(f"{folder}/{trial_id}.parquet", sink.getvalue())


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Turn trials' values into a table in the columns of `SCHEMA`, as `write_trial` takes them.

    Raises:
        ConfigError: a column that the schema does not have, or a value that does not fit.
    """
    for row in rows:
        unknown = sorted(set(row) - set(SCHEMA.names))
        if unknown:
            raise ConfigError(
                f"a trial's row holds only columns of the archive, but got {unknown[0]!r}; "
                "put further figures into details, or add the column to hpsearch.archive.COLUMNS"
            )
    arrays = []
    for column in COLUMNS:
        try:
            arrays.append(pa.array([_plain(row.get(column.name), column) for row in rows], column.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"a trial's row fits the archive's schema, but {column.name}: {error}; see COLUMNS"
            ) from error
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def read_trials(storage: RunStorage) -> pa.Table:
    """Read all finished trials; damaged parts are named in the log and left out.

    Raises:
        ConfigError: a part was written by a newer version of the columns.
    """
    trials = read_archive(storage)
    for path, reason in trials.damaged:
        logger.warning("left out the damaged part %s: %s", path, reason)
    return trials.table


def read_archive(storage: RunStorage, folder: str = TRIALS_FOLDER) -> Trials:
    """Read all finished trials, or those of another folder of the run, together with the damaged parts.

    Raises:
        ConfigError: a part was written by a newer version of the columns.
    """
    paths = [path for path in storage.list(folder) if path.endswith(".parquet")]
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda path: _read_part(storage, path), paths))
    parts = _without_copies(paths, parts)
    tables = [part for part in parts if isinstance(part, pa.Table)]
    damaged = tuple(
        (visible(path), visible(part)) for path, part in zip(paths, parts, strict=True) if isinstance(part, str)
    )
    table = pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks()
    return Trials(table.sort_by([("finished_at", "ascending"), ("trial_id", "ascending")]), damaged)


def finished_ids(storage: RunStorage) -> set[str]:
    """Return the ids of all trials that have a part, by the parts' names alone (nothing is opened)."""
    paths = (path for path in storage.list(TRIALS_FOLDER) if path.endswith(".parquet"))
    return {path.rpartition("/")[2].removesuffix(".parquet") for path in paths}


def rows(table: pa.Table, columns: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Turn the table into dictionaries, with the columns of unit json read; texts are safe to print.

    JSON that is unreadable or has another shape than its column's becomes None.
    """
    chosen = table.select(list(columns)) if columns is not None else table
    structured = {column.name for column in COLUMNS if column.unit == "json"} & set(chosen.column_names)
    found: list[dict[str, Any]] = chosen.to_pylist()
    texts = {column.name for column in COLUMNS if column.type == pa.string()} & set(chosen.column_names) - structured
    for row in found:
        for name in texts:
            row[name] = row[name] and visible(row[name])
        for name in structured:
            row[name] = _read_json(row[name], SHAPES[name])
    return found


def part_id(row: Mapping[str, Any]) -> str:
    """Return the checked trial id of a row, which is also the name of its part.

    Raises:
        ConfigError: no id or one that is no file name, or a state that is none of `STATES`.
    """
    trial_id, state = str(row.get("trial_id", "")), row.get("state")
    if not _SAFE_ID.fullmatch(trial_id):
        raise ConfigError(f"trial_id is made of letters, digits, '_', '-', '.', but got {trial_id!r}; it names a file")
    if state not in STATES:
        raise ConfigError(f"state is one of {', '.join(STATES)}, but got {state!r}; only finished trials are archived")
    return trial_id


def _read_part(storage: RunStorage, path: str) -> pa.Table | str:
    """Read one part in the columns of `SCHEMA`; damage comes back as its reason."""
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path)), page_checksum_verification=True)
        version = int((file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"0"))
        part = None if version > SCHEMA_VERSION else file.read(use_threads=False)
        if part is not None:
            # a part from before the checksums: text that is none would end every reader
            part.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return " ".join(str(error).split())
    if part is None:
        raise ConfigError(
            f"this greenprune reads columns up to version {SCHEMA_VERSION}, "
            f"but {path} in {storage} has version {version}; install a newer one to read this run"
        )
    missing = [name for name in ("trial_id", "state") if name not in part.column_names]
    if missing:
        return f"the column {missing[0]} is missing"
    conformed = _conform(part)
    return conformed if isinstance(conformed, str) else _problem(conformed) or conformed


def _problem(part: pa.Table) -> str | None:
    """Say what in a part no driver writes: a name that is none, which paths are made of, or an unknown state."""
    for trial_id, state in zip(part["trial_id"].to_pylist(), part["state"].to_pylist(), strict=True):
        if trial_id is None or not _SAFE_ID.fullmatch(trial_id):
            return f"it holds a trial with the name {trial_id!r}"
        if state not in STATES:
            return f"the state of its trial {trial_id} is {state!r}"
    return None


def _without_copies(paths: Sequence[str], parts: Sequence[pa.Table | str]) -> list[pa.Table | str]:
    """Leave out the parts of trials that have a part of their own name: a copy beside it would count them twice."""
    names = {path.rpartition("/")[2].removesuffix(".parquet") for path in paths}
    found: list[pa.Table | str] = []
    for path, part in zip(paths, parts, strict=True):
        own = path.rpartition("/")[2].removesuffix(".parquet")
        held = [] if isinstance(part, str) else part["trial_id"].to_pylist()
        copied = next((trial_id for trial_id in held if trial_id != own and trial_id in names), None)
        found.append(part if copied is None else f"it holds the trial {copied}, which has a part of its own")
    return found


def _conform(part: pa.Table) -> pa.Table | str:
    """Give a part the present columns: absent ones become null, unknown ones go."""
    if part.schema.equals(SCHEMA):
        return part.replace_schema_metadata(SCHEMA.metadata)
    try:
        arrays = [
            part[field.name].cast(field.type) if field.name in part.column_names else pa.nulls(len(part), field.type)
            for field in SCHEMA
        ]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)
    except pa.ArrowException as error:
        return " ".join(str(error).split())


def _plain(value: Any, column: Column) -> Any:
    if value is None:
        return None
    if column.unit == "json":
        return value if isinstance(value, str) else json.dumps(value, default=_jsonable)
    if column.type == _TIME:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment.tzinfo is None:
            raise ValueError(f"{column.name} needs a time zone, but got {value}")
        return moment
    if column.type == pa.int64() and isinstance(value, float) and math.isfinite(value):
        return round(value)
    return value


def _jsonable(value: Any) -> Any:
    """Plain value of what json does not know: dataclasses, numpy scalars and arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def _read_json(text: str | None, has_shape: Callable[[Any], bool]) -> Any:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not has_shape(found):
        return None
    return found if text.isascii() and "\\u" not in text else all_visible(found)
