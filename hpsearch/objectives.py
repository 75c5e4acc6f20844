"""What a search is after: from a trial's row to checked, finite costs.

Validation accuracy comes first and goes up; then one cost of inference and, if asked for, the energy of training, both
down. The test set is never among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenprune_core.errors import ConfigError, GreenpruneError


class ObjectiveError(GreenpruneError):
    """A finished trial without a finite value for an objective: it failed, whatever it says."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure that the search makes better."""

    name: str
    """What the user calls it."""
    column: str
    """Column of the archive that holds it."""
    dense_column: str | None
    """Column with the dense network's value, the natural end of the axis; None where there is none."""
    unit: str
    """Unit of the column, `1` for shares and counts."""
    source_column: str | None = None
    """Column that says where a value comes from; values of two sources are never compared. None where all are alike."""
    is_maximised: bool = False
    """Whether more is better."""

    def value(self, row: Mapping[str, Any]) -> float:
        """Return the row's value in the column's unit.

        Raises:
            ObjectiveError: it is absent or not finite.
        """
        value = row.get(self.column)
        if value is None or not math.isfinite(value):
            raise ObjectiveError(
                f"a finished trial has a finite {self.column}, but got {value}; see its error and its learning curve"
            )
        return float(value)

    def cost(self, row: Mapping[str, Any]) -> float:
        """Return the value to minimise: 1 - value where more is better."""
        return 1.0 - self.value(row) if self.is_maximised else self.value(row)


ACCURACY = Objective(name="accuracy", column="val_accuracy", dense_column=None, unit="1", is_maximised=True)

SECOND = {
    "energy": Objective(
        name="energy", column="energy_j", dense_column="dense_energy_j", unit="J", source_column="energy_source"
    ),
    "macs": Objective(name="macs", column="macs", dense_column="dense_macs", unit="MAC"),
    "params": Objective(name="params", column="params_kept", dense_column="dense_params", unit="1"),
    "latency": Objective(
        name="latency",
        column="model_latency_s",
        dense_column="dense_model_latency_s",
        unit="s",
        source_column="model_latency_source",
    ),
}
"""Costs of inference to search on; energy is the default, latency that of a calibrated profile."""

THIRD = {
    "training-energy": Objective(
        name="training-energy",
        column="train_energy_j",
        dense_column=None,
        unit="J",
        source_column="train_energy_source",
    ),
}
"""Optional third objective."""


def choose(second: str = "energy", third: str | None = None) -> tuple[Objective, ...]:
    """Return the objectives of a search, accuracy first.

    Raises:
        ConfigError: no such objective.
    """
    chosen = (ACCURACY, _look_up(second, SECOND, "objective"))
    return chosen if third is None else (*chosen, _look_up(third, THIRD, "third objective"))


def costs(row: Mapping[str, Any], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return a finished trial's costs, all to be minimised and all finite.

    Raises:
        ObjectiveError: one is absent or not finite.
    """
    return tuple(objective.cost(row) for objective in objectives)


def reference(row: Mapping[str, Any], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the corner that a row spans for the hypervolume: no image right, at the dense network's cost.

    Where the dense network's cost is not known, twice the row's own cost stands in for it.
    """
    return tuple(1.0 if objective.is_maximised else _ceiling(row, objective) for objective in objectives)


def _ceiling(row: Mapping[str, Any], objective: Objective) -> float:
    dense = row.get(objective.dense_column) if objective.dense_column else None
    return float(dense) if dense is not None and 0 < dense < math.inf else 2.0 * objective.value(row)


def _look_up(name: str, table: Mapping[str, Objective], what: str) -> Objective:
    if name not in table:
        raise ConfigError(f"the {what} is one of {', '.join(table)}, but got {name!r}; choose one of them")
    return table[name]
