"""From a budget and the trials of a run to one sub-network: which, by what margin, and what lies beside it.

The choice is made on validation accuracy; the test accuracy is for showing. Picking looks at all comparable trials,
so that a budget in MACs finds its best even when that one is not on the front of energies.
"""

from collections.abc import Sequence

from greenprune_core.errors import ConfigError
from hpsearch.fold import each_seed
from hpsearch.front import Front, Row, accuracy_interval, find_front, is_finite
from hpsearch.intervals import overlap
from hpsearch.objectives import ACCURACY, Objective, costs
from hpsearch.pareto import knee as find_knee
from hpsearch.picked import AXES, Axis, Limit, NothingFitsError, Pick, Step, Way, as_plain

__all__ = ["AXES", "Axis", "Limit", "NothingFitsError", "Pick", "Step", "Way", "as_plain", "pick"]


def pick(
    rows: Front | Sequence[Row],
    *,
    max_energy_j: float | None = None,
    max_macs: float | None = None,
    max_latency_s: float | None = None,
    min_accuracy: float | None = None,
    knee: bool = False,
    trial: str | None = None,
    cost: str = "energy",
    third: Objective | None = None,
) -> Pick:
    """Choose one sub-network.

    With a ceiling: the most accurate that keeps all limits. With the floor alone: the cheapest that keeps it. `knee`:
    the knee of the front. `trial`: that one. Controls are never picked. With a third objective, what is on the front
    and where its knee lies is judged by all three.

    Args:
        rows: rows of a run's archive, or its front (whose compared candidates are looked at).
        max_energy_j: ceiling of the energy of one inference.
        max_macs: ceiling of its multiply-accumulates.
        max_latency_s: ceiling of its measured time; of the modelled one, and called so, where nothing was measured.
        min_accuracy: floor of the validation accuracy, in [0, 1].
        knee: take the knee.
        trial: id of a trial.
        cost: what is weighed against accuracy where no ceiling says so: energy, macs, params or (modelled) latency.
        third: the search's third objective, if it has one (a front brings its own).

    Raises:
        ConfigError: no or contradicting criteria, a limit of 0 or less, an unknown trial, nothing to choose from.
        NothingFitsError: no trial keeps the limits.
    """
    time = _time_axis(rows)
    values = {"energy": max_energy_j, "macs": max_macs, time: max_latency_s, "accuracy": min_accuracy}
    limits = tuple(Limit(AXES[name], value) for name, value in values.items() if value is not None)
    _check_criteria(limits, knee, trial)
    ceilings = [limit.axis for limit in limits if not limit.is_floor]
    axis = ceilings[0] if ceilings else AXES["modelled latency" if cost == "latency" else cost]
    front = _compare(rows, axis)
    of_all = _by_all_objectives(rows, axis, third) or front
    if trial is not None:
        return _describe(_find_trial(front, rows, trial), "trial", front, axis, (), of_all)
    if not front.members:
        raise ConfigError(_nothing_to_pick(front, axis))
    if knee:
        index = find_knee([costs(row, of_all.objectives) for row in of_all.members])
        return _describe(of_all.members[index], "knee", front, axis, (), of_all)
    chosen = _within(limits, axis, front)
    return _describe(chosen, "budget" if ceilings else "accuracy", front, axis, limits, of_all)


def _within(limits: Sequence[Limit], axis: Axis, front: Front) -> Row:
    """Return the most accurate network that keeps a ceiling, or the cheapest that keeps the floor alone."""
    # a budget is kept by the network that is taken away, not by the mean over its seeds
    networks = [network for row in front.candidates for network in each_seed(row)]
    columns = (axis.column, *(limit.axis.column for limit in limits))
    comparable = [row for row in networks if all(is_finite(row.get(column)) for column in columns)]
    if not comparable:
        raise ConfigError(_nothing_to_pick(front, axis))
    fitting = [row for row in comparable if all(limit.margin(row) >= 0 for limit in limits)]
    if not fitting:
        raise NothingFitsError(tuple(limits), min(comparable, key=lambda row: _excess(row, limits)))
    if all(limit.is_floor for limit in limits):
        return min(fitting, key=lambda row: (row[axis.column], -row["val_accuracy"], row["trial_id"]))
    return min(fitting, key=lambda row: (-row["val_accuracy"], row[axis.column], row["trial_id"]))


def _check_criteria(limits: Sequence[Limit], knee: bool, trial: str | None) -> None:
    asked = [
        name for name, is_asked in (("limits", bool(limits)), ("knee", knee), ("trial", trial is not None)) if is_asked
    ]
    if not asked:
        raise ConfigError(
            "pick needs one way to choose, but got none; give --max-energy, --max-macs, --max-latency, --min-accuracy, "
            "--knee or --trial"
        )
    if len(asked) > 1:
        raise ConfigError(
            f"pick takes one way to choose, but got {' and '.join(asked)}; "
            "limits go together, --knee and --trial stand alone"
        )


def _time_axis(rows: Front | Sequence[Row]) -> str:
    """Name the latency to pick by: the measured one, or the modelled one where only that is known; never both."""
    known = rows.candidates if isinstance(rows, Front) else rows
    is_measured = any(is_finite(row.get("latency_s")) for row in known)
    is_modelled = any(is_finite(row.get("model_latency_s")) for row in known)
    return "modelled latency" if is_modelled and not is_measured else "latency"


def _compare(rows: Front | Sequence[Row], axis: Axis) -> Front:
    """Compare by accuracy and one cost: whom a budget chooses from, and what lies beside the chosen one."""
    return find_front(rows.candidates if isinstance(rows, Front) else rows, (ACCURACY, axis.objective))


def _by_all_objectives(rows: Front | Sequence[Row], axis: Axis, third: Objective | None) -> Front | None:
    """Compare by a third objective too; None without one, or where no trial has a value for it."""
    further = rows.objectives[2:] if isinstance(rows, Front) else [third] if third else []
    known = rows.candidates if isinstance(rows, Front) else rows
    front = find_front(known, (ACCURACY, axis.objective, *further)) if further else None
    return front if front and front.members else None


def _find_trial(front: Front, rows: Front | Sequence[Row], trial: str) -> Row:
    # a candidate stands for its repeats, with their mean
    compared = {row["trial_id"]: row for row in front.candidates}
    known = [compared.get(row["trial_id"], row) for row in (rows.candidates if isinstance(rows, Front) else rows)]
    matches = [row for row in known if row["trial_id"] == trial] or [
        row for row in known if str(row["trial_id"]).startswith(trial)
    ]
    if len(matches) == 1 and matches[0]["state"] == "complete":
        return matches[0]
    if len(matches) == 1:
        raise ConfigError(
            f"a picked trial is complete, but {trial} is {matches[0]['state']} ({matches[0].get('error')}); "
            "choose another"
        )
    if matches:
        names = ", ".join(str(row["trial_id"]) for row in matches[:5])
        raise ConfigError(f"a trial is named without doubt, but {trial!r} could be {names}; write more of it")
    near = ", ".join(str(row["trial_id"]) for row in front.members[:3]) or "none is complete"
    raise ConfigError(f"--trial names a trial of the run, but got {trial!r}; on the front are e.g. {near}")


def _describe(row: Row, way: Way, front: Front, axis: Axis, limits: tuple[Limit, ...], of_all: Front) -> Pick:
    place = next((i for i, member in enumerate(front.members) if row["trial_id"] in front.names_of(member)), None)
    is_on_front = any(row["trial_id"] in of_all.names_of(member) for member in of_all.members)
    if place is not None:
        below, above = front.members[:place], front.members[place + 1 :]
    elif is_finite(row.get(axis.column)) and is_finite(row.get(ACCURACY.column)):
        below = tuple(member for member in front.members if member[axis.column] <= row[axis.column])
        above = front.members[len(below) :]
    else:
        below, above = (), ()
    cheaper = _step(row, below[-1], axis) if below else None
    dearer = _step(row, above[0], axis) if above else None
    return Pick(row, way, axis, limits, is_on_front, cheaper, dearer)


def _step(row: Row, other: Row, axis: Axis) -> Step:
    return Step(
        other,
        other["val_accuracy"] - row["val_accuracy"],
        other[axis.column] - row[axis.column],
        overlap(accuracy_interval(row), accuracy_interval(other)),
    )


def _excess(row: Row, limits: Sequence[Limit]) -> tuple[float, float]:
    """Order rows by how far the worst limit is missed, then all of them together; both relative to the limits."""
    misses = [max(0.0, -limit.margin(row) / limit.value) for limit in limits]
    return max(misses), sum(misses)


def _nothing_to_pick(front: Front, axis: Axis) -> str:
    left_out = "; ".join(f"{count} left out because {reason}" for reason, count in front.left_out.items())
    if axis.name == "latency":
        return (
            "picking by latency needs trials whose time was measured or modelled, but none has a latency; "
            "run `hpsearch measure RUN` first"
        )
    return (
        f"picking needs a complete trial with a finite accuracy and {axis.name}, but the run has none"
        f"{f' ({left_out})' if left_out else ''}; let a trial finish first"
    )
