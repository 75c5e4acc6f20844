"""What made the difference: importance of each searched parameter, and the pairs that matter only together.

Importance is PED-ANOVA (Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
Arbitrary Subspaces", IJCAI 2023): how much the density of a parameter among the best trials departs from its density
among all trials, as Pearson's divergence (their eq. 15). It is written here in numpy because the reading side does
without Optuna, whose evaluator is the judge in the tests.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.objectives import Objective
from hpsearch.search_run import SearchRun

MIN_TRIALS = 12
"""Below this an importance is a coincidence and none is given."""
ROUGH_BELOW = 40
"""Below this the ranking is said to be rough."""
BEST_SHARE = 0.1
"""Share of the trials that counts as best (the paper's gamma')."""
N_GRID = 50
N_LEVELS = 3
MIN_DECADES = 8.0
"""Smallest ratio of largest to smallest draw for which a logarithm makes a difference."""
N_INTERACTIONS = 3
MIN_INTERACTION = 0.02
"""Smallest share of the variance worth showing."""

Values = NDArray[Any]


@dataclass(frozen=True)
class Importance:
    """How much one parameter decides one objective."""

    parameter: str
    objective: str
    share: float
    """Of all parameters' divergences for this objective, in [0, 1]."""


@dataclass(frozen=True)
class Cell:
    """Trials that fall into one level of each of two parameters."""

    first: str
    second: str
    mean: float
    n: int


@dataclass(frozen=True)
class Interaction:
    """Two parameters whose joint effect on an objective is more than the sum of both."""

    first: str
    second: str
    objective: str
    share: float
    """Share of the objective's variance that only the pair explains (omega squared)."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ImportanceView:
    """What the searched parameters did."""

    n_trials: int
    is_rough: bool
    parameters: tuple[str, ...]
    """Most important first, by the sum over the objectives."""
    importances: tuple[Importance, ...]
    interactions: tuple[Interaction, ...]


def importance_view(run: SearchRun) -> ImportanceView:
    """Weigh the draws of a run's compared trials; empty lists where there are too few of them."""
    rows = [row for row in run.compared.candidates if row.get("params")]
    varied = _varied([row["params"] for row in rows])
    draws = {name: [_plain(row["params"].get(name)) for row in rows] for name in varied}
    if len(rows) < MIN_TRIALS or not draws:
        return ImportanceView(len(rows), True, tuple(draws), (), ())
    importances, interactions = [], []
    for objective in run.objectives:
        costs = np.array([objective.cost(row) for row in rows])
        importances += _of_objective(draws, costs, objective)
        interactions += _interactions(draws, costs, objective)
    totals = {name: sum(item.share for item in importances if item.parameter == name) for name in draws}
    interactions.sort(key=lambda item: -item.share)
    return ImportanceView(
        n_trials=len(rows),
        is_rough=len(rows) < ROUGH_BELOW,
        parameters=tuple(sorted(draws, key=lambda name: (-totals[name], name))),
        importances=tuple(importances),
        interactions=tuple(interactions[:N_INTERACTIONS]),
    )


def _plain(value: Any) -> Any:
    """Return a draw as something that can be compared and counted: what is no number, truth or text becomes text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def ped_anova(draws: Sequence[Any], costs: NDArray[np.float64]) -> float:
    """Return the Pearson divergence of a parameter's density among the best trials from that among all.

    Args:
        draws: value of the parameter per trial; None where the trial did not draw it (those are left out).
        costs: cost per trial, smaller is better [N].
    """
    known = np.array([draw is not None for draw in draws])
    values, cost = [draw for draw in draws if draw is not None], costs[known]
    if len(set(map(repr, values))) < 2:
        return 0.0
    best = cost <= np.quantile(cost, BEST_SHARE, method="higher")
    levels = _to_grid(values)
    n_levels = int(levels.max()) + 1
    is_numeric = _is_numeric(values)
    top, everything = (_density(levels[mask], n_levels, is_numeric) for mask in (best, np.ones_like(best)))
    return float((everything * (top / everything - 1.0) ** 2).sum())


def _of_objective(
    draws: Mapping[str, Sequence[Any]], costs: NDArray[np.float64], objective: Objective
) -> list[Importance]:
    divergences = {name: ped_anova(values, costs) for name, values in draws.items()}
    total = sum(divergences.values()) or 1.0
    return [Importance(name, objective.name, value / total) for name, value in divergences.items()]


def _interactions(
    draws: Mapping[str, Sequence[Any]], costs: NDArray[np.float64], objective: Objective
) -> list[Interaction]:
    """Find pairs by a two-way analysis of variance over three levels of each parameter."""
    found = []
    for first, second in itertools.combinations(draws, 2):
        known = np.array([a is not None and b is not None for a, b in zip(draws[first], draws[second], strict=True)])
        if known.sum() < MIN_TRIALS:
            continue
        places = [int(place) for place in np.flatnonzero(known)]
        (a, names_a), (b, names_b) = (_to_levels([draws[name][place] for place in places]) for name in (first, second))
        values = np.array([1 - costs[place] if objective.is_maximised else costs[place] for place in places])
        share = _interaction_share(a, b, values)
        if share >= MIN_INTERACTION:
            found.append(Interaction(first, second, objective.name, share, _cells(a, b, names_a, names_b, values)))
    return found


def _cells(
    a: Values, b: Values, names_a: Sequence[str], names_b: Sequence[str], values: NDArray[np.float64]
) -> tuple[Cell, ...]:
    cells = []
    for (i, first), (j, second) in itertools.product(enumerate(names_a), enumerate(names_b)):
        inside = values[(a == i) & (b == j)]
        if len(inside):
            cells.append(Cell(first, second, float(inside.mean()), len(inside)))
    return tuple(cells)


def _interaction_share(a: Values, b: Values, values: NDArray[np.float64]) -> float:
    """Omega squared of the interaction: variance of the cells beyond additive effects, corrected for chance."""
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return 0.0  # all equal but for rounding
    total = float(((values - values.mean()) ** 2).sum())
    columns = [np.ones(len(values)), *(a == i for i in range(1, a.max() + 1)), *(b == j for j in range(1, b.max() + 1))]
    design = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)
    additive = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    cell = a * (b.max() + 1) + b
    means = np.array([values[cell == c].mean() for c in cell])
    n_cells = len(np.unique(cell))
    df_pair, df_error = n_cells - np.linalg.matrix_rank(design), len(values) - n_cells
    if df_pair <= 0 or df_error <= 0 or total <= 0:
        return 0.0
    error = float(((values - means) ** 2).sum()) / df_error
    explained = float(((values - additive) ** 2).sum() - ((values - means) ** 2).sum())
    return max(0.0, float((explained - df_pair * error) / (total + error)))


def _varied(draws: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for draw in draws for name in draw)
    return [name for name in names if len({repr(draw[name]) for draw in draws if name in draw}) > 1]


def _to_grid(values: Sequence[Any]) -> NDArray[np.int64]:
    """Number the values: places on a grid of `N_GRID` for numbers (logarithmic where they span decades)."""
    if not _is_numeric(values):
        names = sorted(set(map(repr, values)))
        return np.array([names.index(repr(value)) for value in values])
    numbers = _evened(values)
    low, high = float(numbers.min()), float(numbers.max())
    return np.asarray(np.rint((numbers - low) / ((high - low) or 1.0) * (N_GRID - 1)), dtype=np.int64)


def _density(levels: NDArray[np.int64], n_levels: int, is_numeric: bool) -> NDArray[np.float64]:
    """Parzen estimate on the grid with Scott's bandwidth, and one uniform observation as the prior."""
    prior = np.full(n_levels, 1.0 / n_levels)
    if not is_numeric:
        counts = np.bincount(levels, minlength=n_levels) + prior
        return np.asarray(counts / counts.sum())
    deviation = min(float(levels.std(ddof=1)) if len(levels) > 1 else 0.0, _quartile_range(levels) / 1.34)
    width = max(1.059 * deviation * len(levels) ** -0.2, 0.5)
    grid = np.arange(n_levels)
    kernels = np.exp(-0.5 * ((grid[None, :] - levels[:, None]) / width) ** 2)
    kernels /= kernels.sum(axis=1, keepdims=True)
    return np.asarray((kernels.sum(axis=0) + prior) / (len(levels) + 1))


def _quartile_range(levels: NDArray[np.int64]) -> float:
    low, high = np.quantile(levels, [0.25, 0.75])
    return float(high - low)


def _to_levels(values: Sequence[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Put values into few levels: each choice is one, numbers are cut into thirds; with their names."""
    distinct = sorted(set(values), key=repr)
    if not _is_numeric(values) or len(distinct) <= N_LEVELS:
        ordered = sorted(distinct) if _is_numeric(values) else distinct
        return np.array([ordered.index(value) for value in values]), [_name(value) for value in ordered]
    numbers = np.array(values, dtype=float)
    edges = np.unique(np.quantile(numbers, [0.0, 1 / 3, 2 / 3, 1.0]))
    levels = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    used, places = np.unique(levels, return_inverse=True)
    return places, [f"{_name(edges[i])} – {_name(edges[i + 1])}" for i in used]


def _evened(values: Sequence[Any]) -> NDArray[np.float64]:
    numbers = np.array(values, dtype=float)
    return np.log(numbers) if is_logarithmic(values) else numbers


def is_logarithmic(values: Sequence[Any]) -> bool:
    """Say whether numbers spread over decades, so that their logarithm is what was drawn."""
    known = [float(value) for value in values if value is not None and _is_numeric([value])]
    if len(known) < 3 or min(known) <= 0:
        return False
    low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
    if high / low < MIN_DECADES:
        return False
    # where the middle value lies between the ends tells a uniform draw from a log-uniform one
    return bool(abs(np.log(middle / low) / np.log(high / low) - 0.5) < abs((middle - low) / (high - low) - 0.5))


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _name(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
