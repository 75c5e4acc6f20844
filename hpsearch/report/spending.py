"""What the search cost, and when it has paid for itself."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.front import Row
from hpsearch.search_run import SearchRun

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Spent:
    """What the trials of one state have spent in training."""

    state: str
    n_trials: int
    energy_j: float | None
    """None where no trial knows its energy."""
    seconds: float
    macs: float
    n_without_energy: int
    """Trials that do not know their energy: the sum leaves them out."""


@dataclass(frozen=True)
class PayBack:
    """After how many inferences the whole search has paid for itself."""

    trial_id: str
    saved_j: float
    """Energy of one inference less than the dense network's."""
    n_inferences: float | None
    """None where nothing is saved or the search's energy is not known."""


@dataclass(frozen=True)
class Spending:
    """Energy, time and arithmetic of a search."""

    by_state: tuple[Spent, ...]
    total: Spent
    sources: tuple[str, ...]
    """Sources of the training energies, with trial counts where there are several."""
    co2e_kg: float | None
    """Emissions at the given carbon intensity; None where none was given."""
    pay_back: tuple[PayBack, ...]
    nodes: tuple[tuple[str, int], ...]
    devices: tuple[tuple[str, int], ...]
    versions: tuple[tuple[str, int], ...]


def spending_view(run: SearchRun, carbon_g_per_kwh: float | None = None) -> Spending:
    """Add up what a run's trials have spent.

    Args:
        run: the run.
        carbon_g_per_kwh: grams of CO2 equivalent per kWh of the electricity used; there is no built-in table.
    """
    states = ("complete", "stopped", "failed")
    by_state = [_spent(state, [row for row in run.rows if row["state"] == state]) for state in states]
    total = _spent("all", run.rows)
    energy_kwh = None if total.energy_j is None else total.energy_j / JOULES_PER_KWH
    has_carbon = carbon_g_per_kwh is not None and energy_kwh is not None
    return Spending(
        by_state=tuple(spent for spent in by_state if spent.n_trials),
        total=total,
        sources=tuple(f"{name} ({count})" for name, count in _count(run.rows, "train_energy_source")),
        co2e_kg=energy_kwh * carbon_g_per_kwh / 1000 if has_carbon else None,  # type: ignore[operator]
        pay_back=tuple(_pay_back(row, total.energy_j) for row in run.compared.members if _knows_dense(row)),
        nodes=_count(run.rows, "node"),
        devices=_count(run.rows, "device"),
        versions=_count(run.rows, "version"),
    )


def _spent(state: str, rows: Sequence[Row]) -> Spent:
    energies = [row["train_energy_j"] for row in rows if _is_finite(row.get("train_energy_j"))]
    return Spent(
        state=state,
        n_trials=len(rows),
        energy_j=sum(energies) if energies else None,
        seconds=sum(row["train_seconds"] for row in rows if _is_finite(row.get("train_seconds"))),
        macs=float(sum(row.get("train_macs") or 0 for row in rows)),
        n_without_energy=len(rows) - len(energies),
    )


def _pay_back(row: Row, spent_j: float | None) -> PayBack:
    saved = row["dense_energy_j"] - row["energy_j"]
    return PayBack(row["trial_id"], saved, spent_j / saved if spent_j is not None and saved > 0 else None)


def _knows_dense(row: Row) -> bool:
    return _is_finite(row.get("dense_energy_j")) and _is_finite(row.get("energy_j"))


def _count(rows: Sequence[Row], column: str) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(str(row[column]) for row in rows if row.get(column)).most_common())


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
