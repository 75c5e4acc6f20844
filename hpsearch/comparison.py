"""Several runs side by side: one reference point for all hypervolumes, and who dominates where."""

import bisect
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from greenprune_core.errors import ConfigError
from hpsearch.energy.spent import energy_spent
from hpsearch.front import Front
from hpsearch.objectives import ACCURACY, Objective, costs, reference
from hpsearch.pareto import front_mask, hypervolume, share_of_box
from hpsearch.repeated import is_first
from hpsearch.search_run import SearchRun

N_BANDS = 5
"""Stretches of the cost axis, equally wide on its logarithm, in which the runs are compared."""


@dataclass(frozen=True)
class RunLine:
    """One run in the comparison."""

    name: str
    """The run's name; its location where another run has the same name."""
    n_trials: int
    n_front: int
    hypervolume: float
    """Share of the box up to the common reference, in [0, 1]."""
    n_of_joint_front: int
    """Members of its front that no other run's member beats."""
    best_accuracy: float
    least_cost: float
    energy_spent_j: float | None


@dataclass(frozen=True)
class Band:
    """A stretch of the cost axis."""

    low: float
    high: float
    accuracies: tuple[float | None, ...]
    """Best accuracy of each run at a cost up to `high`; None where it has nothing so cheap."""
    leader: int | None
    """Index of the run with the best accuracy; None on a tie or where no run has anything."""


@dataclass(frozen=True)
class Comparison:
    """Fronts of several runs on the same axes."""

    runs: tuple[RunLine, ...]
    fronts: tuple[Front, ...]
    reference: tuple[float, ...]
    """Common reference point, in costs."""
    bands: tuple[Band, ...]
    objectives: tuple[Objective, ...]

    @property
    def source(self) -> str | None:
        """Where all values of the second objective are from; None where it is counted."""
        return self.fronts[0].sources.get(self.objectives[1].name)


def compare(runs: Sequence[SearchRun]) -> Comparison:
    """Compare the fronts of runs.

    Raises:
        ConfigError: fewer than two runs, other objectives, energies of other sources, or a run without a front.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs, but got {len(runs)}; see `hpsearch report` for one")
    objectives, fronts = runs[0].objectives, [run.compared for run in runs]
    for run, front in zip(runs, fronts, strict=True):
        _check_comparable(runs[0], run, front)
    corners = [reference(row, objectives) for front in fronts for row in front.candidates]
    corner = tuple(max(values) for values in zip(*corners, strict=True))
    points = [[costs(row, objectives) for row in front.members] for front in fronts]
    joint = front_mask([point for group in points for point in group])
    n_named = Counter(run.name for run in runs)
    lines, start = [], 0
    for run, front, group in zip(runs, fronts, points, strict=True):
        lines.append(
            RunLine(
                name=run.name if n_named[run.name] == 1 else run.storage.location,
                n_trials=sum(is_first(row) for row in run.rows),  # seeds of one configuration are one trial
                n_front=len(group),
                hypervolume=share_of_box(hypervolume(group, corner), corner),
                n_of_joint_front=int(joint[start : start + len(group)].sum()),
                best_accuracy=max(row[ACCURACY.column] for row in front.members),
                least_cost=min(row[objectives[1].column] for row in front.members),
                energy_spent_j=energy_spent(run.rows).total_j,
            )
        )
        start += len(group)
    return Comparison(tuple(lines), tuple(fronts), corner, _bands(fronts, objectives[1]), objectives)


def _check_comparable(first: SearchRun, run: SearchRun, front: Front) -> None:
    if not front.members:
        raise ConfigError(f"a compared run has a front, but {run.storage} has no complete trial; leave it out")
    if run.objectives != first.objectives:
        names, others = ([o.name for o in which.objectives] for which in (first, run))
        raise ConfigError(f"compared runs have the same objectives, but got {names} and {others}; compare others")
    for name, source in front.sources.items():
        if source != first.compared.sources[name]:
            one, other = (first.name, run.name) if first.name != run.name else (first.storage, run.storage)
            raise ConfigError(
                f"compared runs have values of the same source, but their {name} is from "
                f"{first.compared.sources[name]} ({one}) and from {source} ({other}); compare others"
            )


def _bands(fronts: Sequence[Front], second: Objective) -> tuple[Band, ...]:
    values = sorted(row[second.column] for front in fronts for row in front.members)
    low, high = values[0], values[-1]
    if not 0 < low < high:
        return ()
    edges = [low * (high / low) ** (place / N_BANDS) for place in range(N_BANDS + 1)]
    edges[-1] = high  # exact, so that the dearest member is inside
    bands = []
    for left, right in itertools.pairwise(edges):
        found = tuple(_best_up_to(front, second, right) for front in fronts)
        known = [value for value in found if value is not None]
        best = max(known) if known else None
        leaders = [place for place, value in enumerate(found) if value is not None and value == best]
        bands.append(Band(left, right, found, leaders[0] if len(leaders) == 1 else None))
    return tuple(bands)


def _best_up_to(front: Front, second: Objective, limit: float) -> float | None:
    members = sorted(front.members, key=lambda row: row[second.column])
    n_within = bisect.bisect_right([row[second.column] for row in members], limit)
    return max((row[ACCURACY.column] for row in members[:n_within]), default=None)
