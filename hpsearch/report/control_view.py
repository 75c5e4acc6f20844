"""Controls beside the front: how the dense and the uniformly narrower networks do, and what the front has for less."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.fold import fold_repeats
from hpsearch.front import Row, accuracy_interval, is_finite
from hpsearch.intervals import overlap
from hpsearch.objectives import ACCURACY
from hpsearch.search_run import SearchRun
from hpsearch.units import ACCURACY as ACCURACY_UNIT
from hpsearch.units import QUANTITIES, show


@dataclass(frozen=True)
class ControlLine:
    """One control in the table, ready to be read."""

    trial_id: str
    label: str
    accuracy: str
    interval: str
    test_accuracy: str
    cost: str
    rival: str | None
    """The most accurate member of the front that costs no more; None where all cost more."""
    difference: str
    """That member's validation accuracy less the control's, with a word on noise."""
    test_difference: str
    """The same on the test images, by which nothing was chosen."""


def placed_controls(run: SearchRun) -> list[Row]:
    """Return the controls that can stand in the picture of the front, from the dearest to the cheapest.

    Several seeds of a control are one row. Those with values of another source than the front's are left out.
    """
    sources = [
        (objective.source_column, run.compared.sources[objective.name])
        for objective in run.objectives
        if objective.source_column is not None
    ]
    fitting = [
        row
        for row in run.controls
        if all(is_finite(row.get(objective.column)) for objective in run.objectives)
        and all(row.get(column) == source for column, source in sources)
    ]
    return sorted(fold_repeats(fitting), key=lambda row: (-row[run.objectives[1].column], str(row["trial_id"])))


def control_label(row: Row) -> str:
    """Return what a person calls a control: `dense network`, or `uniform width 38%`."""
    if row["control"] == "dense":
        return "dense network"
    share = (row.get("details") or {}).get("channel_share")
    return f"uniform width {share:.0%}" if isinstance(share, float) else "uniform width"


def control_tag(row: Row) -> str | None:
    """Return the share of channels, for a picture: `38%`; None for the dense network, whose cost has its own line."""
    return None if row["control"] == "dense" else control_label(row).removeprefix("uniform width").strip()


def control_lines(run: SearchRun) -> tuple[ControlLine, ...]:
    """Write the table of controls, from the dearest to the cheapest."""
    second = run.objectives[1]
    lines = []
    for row in placed_controls(run):
        interval = accuracy_interval(row)
        rival = _rival(run.compared.members, second.column, row[second.column])
        lines.append(
            ControlLine(
                trial_id=str(row["trial_id"]),
                label=control_label(row),
                accuracy=show(row[ACCURACY.column], ACCURACY_UNIT),
                interval=f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "-",
                test_accuracy=show(row.get("test_accuracy"), ACCURACY_UNIT),
                cost=show(row[second.column], QUANTITIES[second.unit]),
                rival=None if rival is None else str(rival["trial_id"]),
                difference="nothing so cheap" if rival is None else _difference(rival, row, "val"),
                test_difference="-" if rival is None else _difference(rival, row, "test"),
            )
        )
    return tuple(lines)


def _rival(members: Sequence[Row], column: str, cost: float) -> Row | None:
    affordable = [row for row in members if row[column] <= cost]
    return max(affordable, key=lambda row: (row[ACCURACY.column], -row[column]), default=None)


def _difference(rival: Row, control: Row, split: str) -> str:
    one, other = rival.get(f"{split}_accuracy"), control.get(f"{split}_accuracy")
    if one is None or other is None:
        return "-"
    noise = {True: ", within noise", False: ", beyond noise", None: ""}
    is_noise = overlap(accuracy_interval(rival, split), accuracy_interval(control, split))
    return f"{(one - other) * 100:+.2f} points{noise[is_noise]}"
