"""A run opened for reading, finished or still going: its trials, front, picks and figures. No ray, optuna or torch."""

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from greenprune_core.errors import ConfigError
from hpsearch import archive, objectives, picker, units
from hpsearch.energy.measured import read_measurements, with_latency, with_measured
from hpsearch.front import Front, find_front
from hpsearch.storage import FIRST_PATIENCE_S, RunStorage
from hpsearch.visible import all_visible

if TYPE_CHECKING:
    import altair

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
EnergyKind = Literal["recorded", "measured"]
"""recorded: what the trials themselves wrote; measured: what `hpsearch measure` found."""

_NOT_MEASURED = {"energy_j is missing or not finite": "its energy was not measured"}

_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "space", "objective", "third_objective", "sampler", "profile", "data_dir"), str),
    **dict.fromkeys(("trials", "seed", "repeats"), int),
    **dict.fromkeys(("cpus_per_trial", "gpus_per_trial"), int | float),
    "pins": list,
}
"""Types of those settings that are read again."""

_REPLACED = ("energy_j", "dense_energy_j", "energy_source", "latency_s")


@dataclass(frozen=True)
class SearchRun:
    """One run. What is read once is kept; open the run again to see newer trials.

    Attributes:
        storage: the run's folder.
        facts: content of settings.json: `settings`, `sessions`, `schema_version`.
        energy: which joules its rows carry, recorded or measured; never both.
    """

    storage: RunStorage
    facts: Mapping[str, Any]
    energy: EnergyKind = "recorded"

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.settings.get("name") or self.storage.location.rpartition("/")[2])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Resolved settings of the search."""
        found = self.facts.get("settings")
        return found if isinstance(found, dict) else {}

    @functools.cached_property
    def archive(self) -> archive.Trials:
        """The table of all finished trials, and the damaged parts."""
        return archive.read_archive(self.storage)

    @functools.cached_property
    def measurements(self) -> list[dict[str, Any]]:
        """What `hpsearch measure` found, one line per network and batch size; a damaged table is named in the log."""
        try:
            return read_measurements(self.storage)
        except ConfigError as error:
            if self.energy == "measured":
                raise
            logger.warning("%s", error)
            return []

    @functools.cached_property
    def trials(self) -> pa.Table:
        """All finished trials, one row each; `run.trials.to_pandas()` where pandas is installed."""
        table = self.archive.table
        if not self.measurements:
            return table
        for name in _REPLACED:
            field = table.schema.field(name)
            values = pa.array([row[name] for row in self.rows], field.type)
            table = table.set_column(table.schema.get_field_index(name), field, values)
        return table

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All finished trials as dictionaries, structured columns read; latencies and joules measured where asked."""
        return self._with_measurements(archive.rows(self.archive.table))

    @functools.cached_property
    def controls(self) -> list[dict[str, Any]]:
        """The dense and the uniformly narrower networks that `hpsearch controls` trained, in the columns of `rows`."""
        found = archive.read_archive(self.storage, archive.CONTROLS_FOLDER)
        for path, reason in found.damaged:
            logger.warning("left out the damaged part %s: %s", path, reason)
        return self._with_measurements(archive.rows(found.table))

    @property
    def objectives(self) -> tuple[objectives.Objective, ...]:
        """What the search made better, accuracy first."""
        return objectives.choose(self.settings.get("objective") or "energy", self.settings.get("third_objective"))

    @functools.cached_property
    def compared(self) -> Front:
        """The front with everything it was compared with, and what was left out."""
        front = find_front(self.rows, self.objectives)
        if self.energy == "recorded":
            return front
        left_out = {_NOT_MEASURED.get(reason, reason): count for reason, count in front.left_out.items()}
        return dataclasses.replace(front, left_out=left_out)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the run is in no figure, in words: damaged parts, and complete trials that do not compare."""
        parts = [f"left out the damaged part {path}: {reason}" for path, reason in self.archive.damaged]
        trials = [f"left out {count} complete trials: {reason}" for reason, count in self.compared.left_out.items()]
        return (*parts, *trials)

    @property
    def front(self) -> pa.Table:
        """The trials that nothing beats, in the columns of `trials`, from the cheapest to the dearest.

        Where a configuration was run with several seeds, the accuracies are their means.
        """
        return archive.to_table(self.compared.members)

    def pick(
        self,
        *,
        max_energy: str | float | None = None,
        max_macs: str | float | None = None,
        max_latency: str | float | None = None,
        min_accuracy: str | float | None = None,
        knee: bool = False,
        trial: str | None = None,
    ) -> picker.Pick:
        """Choose one sub-network, see `hpsearch.picker.pick`.

        Limits are texts with a unit ("1.5mJ", "20M", "2ms", "90%") or numbers in joules, MACs, seconds and shares.

        Raises:
            ConfigError: no limit, a limit that cannot be read or judged, or no such trial.
            NothingFitsError: no trial keeps the limits; it names the nearest.
        """
        return picker.pick(
            self.rows,
            max_energy_j=_number(max_energy, units.ENERGY, "max_energy"),
            max_macs=_number(max_macs, units.MACS, "max_macs"),
            max_latency_s=_number(max_latency, units.TIME, "max_latency"),
            min_accuracy=_number(min_accuracy, units.ACCURACY, "min_accuracy"),
            knee=knee,
            trial=trial,
            cost=self.objectives[1].name,
            third=self.objectives[2] if len(self.objectives) > 2 else None,
        )

    def _with_measurements(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.energy == "measured":
            return with_measured(rows, self.measurements)
        return with_latency(rows, self.measurements) if self.measurements else rows

    def figure(self) -> "altair.TopLevelMixin":
        """Draw the front; a notebook shows it, and its `save` writes PNG, SVG or HTML."""
        from hpsearch.report.figures import draw_front
        from hpsearch.report.front_view import front_view

        return draw_front(front_view(self))


def open_run(location: str | os.PathLike[str], energy: EnergyKind = "recorded") -> SearchRun:
    """Open a run's folder or address for reading.

    Args:
        location: `<storage-path>/<name>`.
        energy: take the joules that the trials recorded, or those that `hpsearch measure` found.

    Raises:
        ConfigError: no run is there, or one of a newer version.
    """
    storage = RunStorage.open(location, FIRST_PATIENCE_S)
    facts = read_facts(storage)
    version = facts.get("schema_version", archive.SCHEMA_VERSION)
    if version > archive.SCHEMA_VERSION:
        raise ConfigError(
            f"this greenprune reads runs up to version {archive.SCHEMA_VERSION}, but {location} has version {version}; "
            "install a newer one to read this run"
        )
    return SearchRun(storage, facts, energy)


def read_facts(storage: RunStorage) -> dict[str, Any]:
    """Return the content of a run's settings.json.

    Raises:
        ConfigError: it is not there, cannot be read, or is damaged.
    """
    try:
        facts = json.loads(storage.read_bytes(SETTINGS))
        if not isinstance(facts, dict) or not isinstance(facts.get("schema_version", 0), int):
            raise ValueError(f"it holds {str(facts)[:40]}, not the settings of a search")
        _check_settings(facts.get("settings"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"a run is a folder with {SETTINGS}, but {storage} has none; give <storage-path>/<name> of a search"
        ) from None
    except OSError as error:
        raise ConfigError(f"a run must be readable, but {storage}: {error}; check address and rights") from error
    except ValueError as error:
        raise ConfigError(
            f"{SETTINGS} is JSON, but that of {storage} is damaged: {error}; put back a copy, "
            "or that of a run with the same options"
        ) from error
    return all_visible(facts)  # type: ignore[no-any-return]


def _check_settings(settings: Any) -> None:
    """Refuse settings whose values are of other types than a search writes; absent ones have their defaults."""
    for name, kind in _KINDS.items() if isinstance(settings, dict) else ():
        value = settings.get(name)
        is_fine = value is None or (isinstance(value, kind) and not isinstance(value, bool))
        if not is_fine or (kind is list and not all(isinstance(item, str) for item in value or ())):
            raise ValueError(f"its {name} is {str(value)[:40]!r}")


def _number(value: str | float | None, quantity: units.Quantity, what: str) -> float | None:
    return units.parse(value, quantity, what) if isinstance(value, str) else value
