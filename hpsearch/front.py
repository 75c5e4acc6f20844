"""The front of a run: which trials compare, which of them nothing beats, and which were left out and why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.intervals import mean_interval, share_interval
from hpsearch.objectives import ACCURACY, SECOND, Objective, costs
from hpsearch.pareto import front_mask

Row = Mapping[str, Any]

LATENCY = Objective(name="latency", column="latency_s", dense_column=None, unit="s")
"""Measured only, so no search objective, but something to pick by."""

DEFAULT_OBJECTIVES = (ACCURACY, SECOND["energy"])


@dataclass(frozen=True)
class Front:
    """The trials of a run that nothing beats."""

    members: tuple[Row, ...]
    """Rows on the front, from the cheapest to the dearest in the second objective."""
    candidates: tuple[Row, ...]
    """All rows that were compared: complete, finite, of one energy source; searched ones and controls."""
    left_out: Mapping[str, int]
    """Complete rows that were not compared: reason -> count."""
    objectives: tuple[Objective, ...]
    energy_source: str | None
    """Source of every energy on this front; None where there is none."""


def find_front(rows: Sequence[Row], objectives: Sequence[Objective] = DEFAULT_OBJECTIVES) -> Front:
    """Compare the complete trials of a run.

    Energies of different sources never meet: the commonest source stays (the first of the alphabet on a tie), the
    others are left out and counted. So are rows with a missing, infinite or NaN objective. Controls (dense, uniform
    width) are candidates to look at, never members.
    """
    left_out: Counter[str] = Counter()
    complete = [row for row in rows if row["state"] == "complete"]
    finite = []
    for row in complete:
        lacking = next((o.column for o in objectives if not _is_finite(row.get(o.column))), None)
        if lacking is None:
            finite.append(row)
        else:
            left_out[f"{lacking} is missing or not finite"] += 1
    uses_energy = any(objective.unit == "J" for objective in objectives)
    source = _commonest_source(finite) if uses_energy else None
    candidates = [row for row in finite if not uses_energy or row.get("energy_source") == source]
    for row in finite if uses_energy else ():
        if row.get("energy_source") != source:
            left_out[f"its energy is from {row.get('energy_source') or 'an unknown source'}, not from {source}"] += 1
    searched = [row for row in candidates if not row.get("control")]
    mask = front_mask([costs(row, objectives) for row in searched])
    members = [row for row, is_member in zip(searched, mask, strict=True) if is_member]
    second = objectives[1].column
    members.sort(key=lambda row: (row[second], row[ACCURACY.column], row["trial_id"]))
    return Front(tuple(members), tuple(candidates), dict(left_out), tuple(objectives), source)


def accuracy_interval(row: Row, split: str = "val") -> tuple[float, float] | None:
    """Return the 95 % interval of a row's accuracy: over its repeats where there are, else over its images."""
    column, n_column = (f"{split}_accuracy", "n_validation" if split == "val" else "n_test")
    repeats = [repeat[column] for repeat in row.get("repeats") or [] if _is_finite(repeat.get(column))]
    return mean_interval(repeats) or share_interval(row.get(column), row.get(n_column))


def _commonest_source(rows: Sequence[Row]) -> str | None:
    counts = Counter(row["energy_source"] for row in rows if row.get("energy_source"))
    return min(counts, key=lambda source: (-counts[source], source)) if counts else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
