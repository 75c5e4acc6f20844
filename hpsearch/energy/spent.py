"""What a search has spent, and when it has paid for itself: kWh, kg CO2e, inferences to break even."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from greenprune_core.errors import ConfigError

JOULES_PER_KWH = 3.6e6
STATES = ("complete", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Energy of all training in a run, by state of the trial."""

    joules: Mapping[str, float]
    """State (complete, stopped, failed) -> joules of the trials whose energy is known."""
    n_known: Mapping[str, int]
    """State -> trials behind these joules."""
    n_unknown: Mapping[str, int]
    """State -> trials that report no energy: the sums lack them."""
    sources: tuple[str, ...]
    """Where the joules come from; more than one means that the total mixes kinds of figures."""

    @property
    def total_j(self) -> float | None:
        """Joules of all states together; None while no trial has reported any."""
        return sum(self.joules.values()) if any(self.n_known.values()) else None

    @property
    def kwh(self) -> float | None:
        """The total in kWh."""
        return None if self.total_j is None else self.total_j / JOULES_PER_KWH


def energy_spent(rows: Iterable[Mapping[str, Any]]) -> Spent:
    """Add up the training energy of a run's rows (columns state, train_energy_j, train_energy_source)."""
    joules, n_known, n_unknown = dict.fromkeys(STATES, 0.0), dict.fromkeys(STATES, 0), dict.fromkeys(STATES, 0)
    sources = set()
    for row in rows:
        state, value = row["state"], row.get("train_energy_j")
        if value is None or not math.isfinite(value):
            n_unknown[state] += 1
            continue
        joules[state] += value
        n_known[state] += 1
        sources.add(row.get("train_energy_source") or "unknown")
    return Spent(joules=joules, n_known=n_known, n_unknown=n_unknown, sources=tuple(sorted(sources)))


def carbon_kg(joules: float, intensity_g_per_kwh: float) -> float:
    """Return kg CO2e of an energy at the carbon intensity that the user gives for his grid.

    Raises:
        ConfigError: the intensity is no number above 0.
    """
    if not 0 < intensity_g_per_kwh < math.inf:
        raise ConfigError(f"a carbon intensity is above 0 g/kWh, but got {intensity_g_per_kwh:g}; 20 to 1000 are usual")
    return joules / JOULES_PER_KWH * intensity_g_per_kwh / 1000


def saved_per_million_j(dense_energy_j: float, energy_j: float) -> float:
    """Return the joules that a sub-network saves in a million inferences against the dense one; negative if none."""
    return (dense_energy_j - energy_j) * 1e6


def payback_inferences(spent_j: float, dense_energy_j: float, energy_j: float) -> int | None:
    """Return after how many inferences the search has saved what it spent; None if the sub-network saves nothing.

    All three figures are of one source: joules of a model and of a meter do not pay each other back.
    """
    saved_j = dense_energy_j - energy_j
    return math.ceil(spent_j / saved_j) if saved_j > 0 else None
