"""What a pick is made of: figures to set limits on, the limits, the picked sub-network and its neighbours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch.front import LATENCY, Row, accuracy_interval
from hpsearch.objectives import ACCURACY, SECOND, Objective
from hpsearch.plain_json import finite
from hpsearch.units import ACCURACY as ACCURACY_UNIT
from hpsearch.units import ENERGY, MACS, TIME, Quantity, show

Way = Literal["budget", "accuracy", "knee", "trial"]


@dataclass(frozen=True)
class Axis:
    """One figure that a limit can be set on."""

    name: str
    column: str
    quantity: Quantity
    objective: Objective


AXES = {
    "energy": Axis("energy", "energy_j", ENERGY, SECOND["energy"]),
    "macs": Axis("macs", "macs", MACS, SECOND["macs"]),
    "params": Axis("parameters", "params_kept", MACS, SECOND["params"]),
    "latency": Axis("latency", "latency_s", TIME, LATENCY),
    "modelled latency": Axis("modelled latency", "model_latency_s", TIME, SECOND["latency"]),
    "accuracy": Axis("accuracy", "val_accuracy", ACCURACY_UNIT, ACCURACY),
}


@dataclass(frozen=True)
class Limit:
    """A ceiling on a cost, or the floor of the accuracy."""

    axis: Axis
    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf or (self.axis.quantity is ACCURACY_UNIT and self.value > 1):
            most = " and at most 1" if self.axis.quantity is ACCURACY_UNIT else ""
            raise ConfigError(
                f"a limit of the {self.axis.name} is above 0{most}, but got {self.value}; leave it out for no limit"
            )

    @property
    def is_floor(self) -> bool:
        """Whether values must lie above."""
        return self.axis.objective.is_maximised

    def margin(self, row: Row) -> float:
        """Return how much a row leaves of the limit, in its unit; negative where it breaks it."""
        found = float(row[self.axis.column])
        return found - self.value if self.is_floor else self.value - found

    def __str__(self) -> str:
        word = "at least" if self.is_floor else "at most"
        return f"{self.axis.name} {word} {show(self.value, self.axis.quantity)}"


@dataclass(frozen=True)
class Step:
    """A neighbour of the picked sub-network on the front."""

    row: Row
    accuracy_change: float
    """Validation accuracy against the picked one."""
    cost_change: float
    """Cost against the picked one, in the unit of the axis."""
    is_within_noise: bool | None
    """Whether the intervals of the two accuracies overlap; None where one is not known."""


@dataclass(frozen=True)
class Pick:
    """The chosen sub-network."""

    row: Row
    way: Way
    axis: Axis
    """The cost along which the neighbours lie."""
    limits: tuple[Limit, ...]
    is_on_front: bool
    cheaper: Step | None
    """One step down the front."""
    dearer: Step | None
    """One step up the front."""

    @property
    def trial_id(self) -> str:
        """Name of the picked trial."""
        return str(self.row["trial_id"])


class NothingFitsError(GreenpruneError):
    """No trial keeps the limits; says which comes nearest and by how much it misses."""

    def __init__(self, limits: Sequence[Limit], nearest: Row) -> None:
        self.limits, self.nearest = tuple(limits), nearest
        missed = [limit for limit in limits if limit.margin(nearest) < 0]
        gaps = " and ".join(
            f"{limit.axis.name} {show(nearest[limit.axis.column], limit.axis.quantity)}, "
            f"{_amount(limit, nearest)} ({_relative(-limit.margin(nearest) / limit.value)}) "
            f"{'below the floor' if limit.is_floor else 'above the limit'}"
            for limit in missed
        )
        asked = " and ".join(str(limit) for limit in limits)
        super().__init__(f"no sub-network has {asked}; nearest is {nearest['trial_id']} with {gaps}")


def _amount(limit: Limit, row: Row) -> str:
    missed = -limit.margin(row)
    return f"{missed * 100:.2f} points" if limit.is_floor else show(missed, limit.axis.quantity)


def _relative(share: float) -> str:
    return f"{share:.1%}" if share < 10 else f"{share:,.0f} times it"


def as_plain(picked: Pick) -> dict[str, Any]:
    """Return a pick as plain values for JSON, with None for what is no finite number."""
    plain: dict[str, Any] = {
        "trial_id": picked.trial_id,
        "way": picked.way,
        "is_on_front": picked.is_on_front,
        **{name: picked.row.get(name) for name in _SHOWN},
        "val_accuracy_interval": accuracy_interval(picked.row),
        "test_accuracy_interval": accuracy_interval(picked.row, "test"),
        "limits": [_plain_limit(limit, picked.row) for limit in picked.limits],
        "cheaper": _plain_step(picked.cheaper, picked.axis),
        "dearer": _plain_step(picked.dearer, picked.axis),
    }
    return {name: finite(value) for name, value in plain.items()}


_SHOWN = (
    *(
        "val_accuracy",
        "test_accuracy",
        "energy_j",
        "energy_source",
        "macs",
        "dense_macs",
        "params_kept",
        "dense_params",
    ),
    *("latency_s", "model_latency_s", "model_latency_source", "config_hash", "seed"),
)


def _plain_limit(limit: Limit, row: Row) -> Mapping[str, Any]:
    margin = limit.margin(row)
    return {
        "on": limit.axis.column,
        "value": limit.value,
        "is_floor": limit.is_floor,
        "margin": margin,
        "margin_share": margin / limit.value,
    }


def _plain_step(step: Step | None, axis: Axis) -> Mapping[str, Any] | None:
    if step is None:
        return None
    return {
        "trial_id": step.row["trial_id"],
        "val_accuracy": step.row["val_accuracy"],
        axis.column: step.row[axis.column],
        "accuracy_change": step.accuracy_change,
        "cost_change": step.cost_change,
        "is_within_noise": step.is_within_noise,
    }
