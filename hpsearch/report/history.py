"""How a search went: hypervolume over trials, epochs and joules, busy slots, failures, what it cost."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch.front import Row
from hpsearch.objectives import costs, reference
from hpsearch.pareto import FrontTracker, share_of_box
from hpsearch.repeated import is_first
from hpsearch.search_run import SearchRun

MAX_STEPS = 400
"""Points kept of a curve; a screen shows no more."""


@dataclass(frozen=True)
class Progress:
    """Where the search stood after one more trial."""

    n_trials: int
    n_epochs: int
    """Training epochs spent by all trials so far, stopped and failed ones too."""
    energy_j: float
    """Training energy spent by all trials so far."""
    hypervolume: float
    """Share of the box between no image right at the dense network's cost and a perfect free network, in [0, 1]."""


@dataclass(frozen=True)
class Busy:
    """How many trials were running from this moment on."""

    seconds: float
    n_running: int


@dataclass(frozen=True)
class HistoryView:
    """The course of a search."""

    progress: tuple[Progress, ...]
    busy: tuple[Busy, ...]
    n_slots: int
    """Most trials that ran at once."""
    busy_share: float | None
    """Share of the slots' time in which they ran a trial, first start to last end; None without times."""
    failures: tuple[tuple[str, str, int], ...]
    """State, reason and count of trials that did not complete, commonest first."""
    damaged: tuple[tuple[str, str], ...]
    """Parts of the archive that could not be read, with the reason."""


def history_view(run: SearchRun) -> HistoryView:
    """Follow a run's trials in the order of their ends."""
    reasons = Counter((row["state"], _first_line(row.get("error"))) for row in run.rows if row["state"] != "complete")
    busy = _busy(run.rows)
    n_slots = max((step.n_running for step in busy), default=0)
    return HistoryView(
        progress=_thin(_progress(run)),
        busy=_thin(busy),
        n_slots=n_slots,
        busy_share=_busy_share(busy, n_slots),
        failures=tuple((state, reason, count) for (state, reason), count in reasons.most_common()),
        damaged=run.archive.damaged,
    )


def hypervolume_share(run: SearchRun) -> float:
    """Return the share of the box that the run's front dominates, in [0, 1]; 0 without a front."""
    steps = _progress(run)
    return steps[-1].hypervolume if steps else 0.0


def _progress(run: SearchRun) -> list[Progress]:
    if not run.compared.candidates:
        return []
    arrivals = _arrivals(run)
    corners = [reference(row, run.objectives) for row in run.compared.candidates]
    tracker = FrontTracker([max(values) for values in zip(*corners, strict=True)])
    steps: list[Progress] = []
    n_epochs, energy_j = 0, 0.0
    n_trials = 0
    for row in run.rows:
        n_trials += is_first(row)  # seeds of one configuration are one trial
        n_epochs += row.get("epochs") or 0
        energy_j += _finite(row.get("train_energy_j"))
        if row["trial_id"] in arrivals:
            tracker.add(costs(arrivals[row["trial_id"]], run.objectives))
        steps.append(Progress(n_trials, n_epochs, energy_j, share_of_box(tracker.hypervolume, tracker.reference)))
    return steps


def _arrivals(run: SearchRun) -> dict[str, Row]:
    """Return the trial with whose end each candidate is known: its own, or the last of its repeats."""
    places = {row["trial_id"]: place for place, row in enumerate(run.rows)}
    found = {}
    for row in run.compared.candidates:
        ids = [repeat["trial_id"] for repeat in row.get("repeats") or [] if repeat.get("trial_id") in places]
        found[max([row["trial_id"], *ids], key=lambda trial_id: places[trial_id])] = row
    return found


def _busy(rows: Sequence[Row]) -> list[Busy]:
    ends = [(row["started_at"], row["finished_at"]) for row in rows if row.get("started_at") and row.get("finished_at")]
    # a clock that was set back in a trial's time ends it before its start
    times = [(start, end) for start, end in ends if start <= end]
    if not times:
        return []
    first = min(start for start, _ in times)
    # an end before a start at the same moment: a slot that is handed on is one slot
    events = sorted([(start, 1) for start, _ in times] + [(end, -1) for _, end in times])
    steps: list[Busy] = []
    n_running = 0
    for moment, change in events:
        n_running += change
        steps.append(Busy((moment - first).total_seconds(), n_running))
    return steps


def _busy_share(busy: Sequence[Busy], n_slots: int) -> float | None:
    if len(busy) < 2 or busy[-1].seconds <= 0:
        return None
    spent = sum(step.n_running * (after.seconds - step.seconds) for step, after in itertools.pairwise(busy))
    return spent / (n_slots * busy[-1].seconds)


def _thin(steps: list[Any]) -> tuple[Any, ...]:
    """Keep at most `MAX_STEPS` of them, evenly, with the first and the last."""
    if len(steps) <= MAX_STEPS:
        return tuple(steps)
    places = {round(i * (len(steps) - 1) / (MAX_STEPS - 1)) for i in range(MAX_STEPS)}
    return tuple(steps[place] for place in sorted(places))


def _first_line(text: str | None) -> str:
    return (text or "no reason recorded").strip().splitlines()[0]


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0
