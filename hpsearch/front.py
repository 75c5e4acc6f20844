"""The front of a run: which trials compare, which of them nothing beats, and which were left out and why."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.fold import Row, fold_repeats
from hpsearch.intervals import mean_interval, share_interval
from hpsearch.objectives import ACCURACY, SECOND, Objective, costs
from hpsearch.pareto import front_mask

__all__ = [
    "DEFAULT_OBJECTIVES", "LATENCY", "Front", "Row", "accuracy_interval", "find_front", "interval_basis", "is_finite"
]  # fmt: skip

LATENCY = Objective(name="latency", column="latency_s", dense_column=None, unit="s")
"""Measured after the search, so no search objective, but something to pick by."""

_N_IMAGES = {"val": "n_validation", "test": "n_test"}

DEFAULT_OBJECTIVES = (ACCURACY, SECOND["energy"])


@dataclass(frozen=True)
class Front:
    """The trials of a run that nothing beats."""

    members: tuple[Row, ...]
    """Rows on the front, from the cheapest to the dearest in the second objective; one for each point."""
    candidates: tuple[Row, ...]
    """All rows that were compared: complete, finite, of one source each; repeats of a configuration as one."""
    twins: Mapping[str, tuple[str, ...]]
    """Member -> ids of further trials with exactly its values."""
    left_out: Mapping[str, int]
    """Complete rows that were not compared: reason -> count."""
    objectives: tuple[Objective, ...]
    sources: Mapping[str, str | None]
    """Objective that is modelled or measured -> source of all its values."""
    energy_source: str | None
    """Source of every energy per inference on this front; None where there is none, or several."""

    def names_of(self, member: Row) -> set[str]:
        """Return the ids of the trials behind a member: itself, its repeats with other seeds, its equals."""
        repeats = {str(repeat["trial_id"]) for repeat in member.get("repeats") or [] if repeat.get("trial_id")}
        return {str(member["trial_id"]), *repeats, *self.twins.get(str(member["trial_id"]), ())}


def find_front(rows: Sequence[Row], objectives: Sequence[Objective] = DEFAULT_OBJECTIVES) -> Front:
    """Compare the complete trials of a run.

    Values of different sources never meet: the commonest source stays (the first of the alphabet on a tie), the
    others are left out and counted. So are rows with a missing, infinite or NaN objective. Trials that differ in the
    seed alone are one candidate, see `fold_repeats`, also where the costs of only some of them compare.
    Controls (dense, uniform width) are no candidates.
    """
    left_out: Counter[str] = Counter()
    finite = []
    complete = [row for row in rows if row["state"] == "complete" and not row.get("control")]
    for row in complete:
        lacking = next((o.column for o in objectives if not is_finite(row.get(o.column))), None)
        if lacking is None:
            finite.append(row)
        else:
            left_out[f"{lacking} is missing or not finite"] += 1
    sources: dict[str, str | None] = {}
    for objective in objectives:
        if objective.source_column is not None:
            source = sources[objective.name] = _commonest(finite, objective.source_column)
            foreign = [row for row in finite if row.get(objective.source_column) != source]
            finite = [row for row in finite if row.get(objective.source_column) == source]
            for row in foreign:
                other = row.get(objective.source_column) or "an unknown source"
                left_out[f"its {objective.name} is from {other}, not from {source}"] += 1
    candidates = fold_repeats(finite, [row for row in complete if is_finite(row.get(ACCURACY.column))])
    members, twins = _one_per_point(candidates, objectives)
    energies = {row.get("energy_source") for row in candidates}
    return Front(
        members=members,
        candidates=tuple(candidates),
        twins=twins,
        left_out=dict(left_out),
        objectives=tuple(objectives),
        sources=sources,
        energy_source=energies.pop() if len(energies) == 1 else None,
    )


def accuracy_interval(row: Row, split: str = "val") -> tuple[float, float] | None:
    """Return the 95 % interval of a row's accuracy: over its repeats where there are, else over its images.

    Student's of few repeats reaches beyond what an accuracy can be; it ends at 0 and 1.
    """
    over_seeds = mean_interval(_repeated(row, split))
    if over_seeds is not None:
        return max(0.0, over_seeds[0]), min(1.0, over_seeds[1])
    return share_interval(row.get(f"{split}_accuracy"), row.get(_N_IMAGES[split]))


def interval_basis(row: Row, split: str = "val") -> str:
    """Say what `accuracy_interval` is over: `3 seeds`, or `n = 360` images."""
    n_seeds = len(_repeated(row, split))
    return f"{n_seeds} seeds" if n_seeds > 1 else f"n = {row.get(_N_IMAGES[split])}"


def _repeated(row: Row, split: str) -> list[float]:
    values = [repeat.get(f"{split}_accuracy") for repeat in row.get("repeats") or []]
    return [value for value in values if is_finite(value)]


def _one_per_point(
    candidates: Sequence[Row], objectives: Sequence[Objective]
) -> tuple[tuple[Row, ...], dict[str, tuple[str, ...]]]:
    """Return what nothing beats, cheapest first, with the first by name where several are equal, and who equals it."""
    mask = front_mask([costs(row, objectives) for row in candidates])
    points: dict[tuple[float, ...], list[Row]] = {}
    for row in sorted(itertools.compress(candidates, mask), key=lambda row: str(row["trial_id"])):
        points.setdefault(costs(row, objectives), []).append(row)
    second = objectives[1].column
    members = sorted((group[0] for group in points.values()), key=lambda row: (row[second], row[ACCURACY.column]))
    equal = {str(group[0]["trial_id"]): tuple(str(row["trial_id"]) for row in group[1:]) for group in points.values()}
    return tuple(members), {name: others for name, others in equal.items() if others}


def _commonest(rows: Sequence[Row], column: str) -> str | None:
    counts = Counter(row[column] for row in rows if row.get(column))
    return min(counts, key=lambda source: (-counts[source], source)) if counts else None


def is_finite(value: Any) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
