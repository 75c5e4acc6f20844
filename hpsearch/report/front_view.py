"""The front as small tuples: what the picture and the table of a report show of it."""

import math
from collections import Counter
from dataclasses import dataclass

from hpsearch.front import Front, Row, accuracy_interval, find_front
from hpsearch.intervals import overlap
from hpsearch.objectives import ACCURACY, Objective, costs
from hpsearch.pareto import knee
from hpsearch.repeated import is_first
from hpsearch.report.control_view import control_label, control_tag, placed_controls
from hpsearch.search_run import SearchRun
from hpsearch.units import ACCURACY as ACCURACY_UNIT
from hpsearch.units import ENERGY, MACS, QUANTITIES, TIME, show


@dataclass(frozen=True)
class Point:
    """One trial in the picture of the front."""

    trial_id: str
    kind: str
    """front, trial, stopped, failed or control."""
    label: str
    """What a person calls it: the trial's id, or the control's name."""
    tag: str | None
    """Share of the channels of a narrower control; None for the others."""
    accuracy: float
    """Validation accuracy in [0, 1]."""
    cost: float
    """Second objective, in its unit."""
    third: float | None
    """Third objective, in its unit; None where there are two."""
    is_on_line: bool
    """Whether nothing beats it in accuracy and cost alone; with two objectives, the members of the front."""
    low: float | None
    """Ends of the interval over repeats; None without repeats."""
    high: float | None
    n_repeats: int
    """Seeds behind the accuracy."""


@dataclass(frozen=True)
class Axis:
    """A cost axis of the picture."""

    name: str
    unit: str
    title: str
    dense: float | None
    """The dense network's value; None where it is not known."""
    is_logarithmic: bool = True
    """Whether all values are above zero, so that the axis can count in factors."""


@dataclass(frozen=True)
class FrontView:
    """Everything that the picture of a front needs."""

    points: tuple[Point, ...]
    axis: Axis
    third_axis: Axis | None
    knee_id: str | None
    left_out: tuple[tuple[str, int], ...]
    """Why complete trials are not in the picture, with counts."""
    n_by_state: tuple[tuple[str, int], ...]
    n_not_placed: int
    """Stopped and failed trials without coordinates."""
    n_controls_left_out: int
    """Controls without finite figures, or with energies of another source."""


def front_view(run: SearchRun) -> FrontView:
    """Place the trials of a run; energies are those of the front's one source."""
    front = run.compared
    second, *rest = run.objectives[1:]
    member_ids = {row["trial_id"] for row in front.members}
    on_line = {row["trial_id"] for row in find_front(front.candidates, run.objectives[:2]).members}
    points, n_not_placed = [], 0
    for row in front.candidates:
        kind = "front" if row["trial_id"] in member_ids else "trial"
        points.append(_point(row, kind, run.objectives, row["trial_id"] in on_line))
    controls = placed_controls(run)
    points += [_point(row, "control", run.objectives) for row in controls]
    for row in run.rows:
        if row["state"] == "complete":
            continue
        if _is_placed(row, run.objectives) and _is_of_sources(row, front):
            points.append(_point(row, row["state"], run.objectives))
        else:
            n_not_placed += 1
    # seeds of one configuration are one trial
    states = Counter(row["state"] for row in run.rows if is_first(row))
    knee_id = None
    if front.members:
        place = knee([costs(row, run.objectives) for row in front.members])
        knee_id = front.members[place]["trial_id"]
    return FrontView(
        points=tuple(points),
        axis=_axis(run, second),
        third_axis=_axis(run, rest[0]) if rest else None,
        knee_id=knee_id,
        left_out=tuple(sorted(front.left_out.items())),
        n_by_state=tuple((state, states[state]) for state in ("complete", "stopped", "failed")),
        n_not_placed=n_not_placed,
        n_controls_left_out=len(run.controls) - sum(len(row.get("repeats") or [row]) for row in controls),
    )


@dataclass(frozen=True)
class MemberLine:
    """One line of the front's table, ready to be read."""

    trial_id: str
    twins: tuple[str, ...]
    """Further trials with exactly its objectives."""
    accuracy: str
    interval: str
    test_accuracy: str
    cost: str
    third: str | None
    """Third objective; None where there are two."""
    macs: str
    params: str
    latency: str
    saved: str
    """Energy of a million inferences less than the dense network's."""
    is_knee: bool
    is_like_next: bool
    """Whether the next, dearer member's accuracy is within noise of this one's."""


def front_table(run: SearchRun, knee_id: str | None) -> tuple[MemberLine, ...]:
    """Write the front's table, from the cheapest to the dearest."""
    members = run.compared.members
    second, *rest = run.objectives[1:]
    lines = []
    for place, row in enumerate(members):
        interval = accuracy_interval(row)
        after = accuracy_interval(members[place + 1]) if place + 1 < len(members) else None
        lines.append(
            MemberLine(
                trial_id=row["trial_id"],
                twins=run.compared.twins.get(row["trial_id"], ()),
                accuracy=show(row["val_accuracy"], ACCURACY_UNIT),
                interval=f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "-",
                test_accuracy=show(row.get("test_accuracy"), ACCURACY_UNIT),
                cost=show(row[second.column], QUANTITIES[second.unit]),
                third=show(row[rest[0].column], QUANTITIES[rest[0].unit]) if rest else None,
                macs=_with_share(row.get("macs"), row.get("dense_macs")),
                params=_with_share(row.get("params_kept"), row.get("dense_params")),
                latency=show(row.get("latency_s"), TIME),
                saved=_saved(row),
                is_knee=row["trial_id"] == knee_id,
                is_like_next=bool(overlap(interval, after)),
            )
        )
    return tuple(lines)


def _point(row: Row, kind: str, objectives: tuple[Objective, ...], is_on_line: bool = False) -> Point:
    interval = accuracy_interval(row) if len(row.get("repeats") or []) > 1 else None
    label = control_label(row) if kind == "control" else str(row["trial_id"])
    return Point(
        trial_id=row["trial_id"],
        kind=kind,
        label=label,
        tag=control_tag(row) if kind == "control" else None,
        accuracy=row[ACCURACY.column],
        cost=float(row[objectives[1].column]),
        third=float(row[objectives[2].column]) if len(objectives) > 2 else None,
        is_on_line=is_on_line,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        n_repeats=len(row.get("repeats") or [row]),
    )


def _is_placed(row: Row, objectives: tuple[Objective, ...]) -> bool:
    values = [row.get(objective.column) for objective in objectives]
    return all(value is not None and math.isfinite(value) for value in values)


def _is_of_sources(row: Row, front: Front) -> bool:
    """Say whether a row's values come from where the front's do."""
    columns = [(objective.name, objective.source_column) for objective in front.objectives]
    return all(row.get(column) in (front.sources[name], None) for name, column in columns if column is not None)


def _axis(run: SearchRun, objective: Objective) -> Axis:
    source = run.compared.sources.get(objective.name) or "source unknown"
    titles = {
        "energy": f"energy per inference, {source}",
        "macs": "multiply-accumulates per inference",
        "params": "parameters",
        "latency": f"latency per inference, {source}",
        "training-energy": f"energy of training, {source}",
    }
    dense = [row.get(objective.dense_column) for row in run.compared.candidates] if objective.dense_column else []
    known = [float(value) for value in dense if value is not None and math.isfinite(value) and value > 0]
    title = titles.get(objective.name, objective.name)
    is_logarithmic = all(row[objective.column] > 0 for row in run.compared.candidates)
    return Axis(objective.name, objective.unit, title, max(known) if known else None, is_logarithmic)


def _with_share(value: int | None, dense: int | None) -> str:
    if value is None:
        return "-"
    return f"{show(value, MACS)} ({value / dense:.0%})" if dense else show(value, MACS)


def _saved(row: Row) -> str:
    dense, own = row.get("dense_energy_j"), row.get("energy_j")
    if dense is None or own is None or not math.isfinite(own):
        return "-"
    return show((dense - own) * 1e6, ENERGY)
