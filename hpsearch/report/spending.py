"""What the search cost, and when it has paid for itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.energy.spent import STATES, carbon_kg, energy_spent, payback_inferences
from hpsearch.front import Row
from hpsearch.repeated import is_first
from hpsearch.search_run import SearchRun


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
    n_inferences: int | None
    """None where nothing is saved, or where the energies of search and inference do not come from one source."""


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
    by_state = [_spent(state, [row for row in run.rows if row["state"] == state]) for state in STATES]
    total = _spent("all", run.rows)
    counted = _count(run.rows, "train_energy_source")
    sources = {row["train_energy_source"] for row in run.rows if row.get("train_energy_source")}
    # joules of a model and joules of a meter do not pay each other back
    spent_j = total.energy_j if sources == {run.compared.energy_source} else None
    has_carbon = carbon_g_per_kwh is not None and total.energy_j is not None
    return Spending(
        by_state=tuple(spent for spent in by_state if spent.n_trials or spent.energy_j),
        total=total,
        sources=tuple(f"{name} ({count})" if len(sources) > 1 else name for name, count in counted),
        co2e_kg=carbon_kg(total.energy_j, carbon_g_per_kwh) if has_carbon else None,  # type: ignore[arg-type]
        pay_back=tuple(_pay_back(row, spent_j) for row in run.compared.members if _knows_dense(row)),
        nodes=_count(run.rows, "node"),
        devices=_count(run.rows, "device"),
        versions=_count(run.rows, "version"),
    )


def _spent(state: str, rows: Sequence[Row]) -> Spent:
    energy = energy_spent(rows)
    return Spent(
        state=state,
        n_trials=sum(is_first(row) for row in rows),  # seeds of one configuration are one trial
        energy_j=energy.total_j,
        seconds=sum(row.get("train_seconds") or 0.0 for row in rows),
        macs=float(sum(row.get("train_macs") or 0 for row in rows)),
        n_without_energy=sum(energy.n_unknown.values()),
    )


def _pay_back(row: Row, spent_j: float | None) -> PayBack:
    dense, own = row["dense_energy_j"], row["energy_j"]
    n_inferences = None if spent_j is None else payback_inferences(spent_j, dense, own)
    return PayBack(row["trial_id"], dense - own, n_inferences)


def _knows_dense(row: Row) -> bool:
    return row.get("dense_energy_j") is not None and row.get("energy_j") is not None


def _count(rows: Sequence[Row], column: str) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(str(row[column]) for row in rows if row.get(column)).most_common())
