"""Successive halving for several objectives, as arithmetic: which trials go on from a rung. No Ray, no Optuna.

The idea is MO-ASHA (Schmucker, Donini, Zafar, Salinas and Archambeau, "Multi-objective Asynchronous Successive
Halving", arXiv 2106.12639): a trial that reaches a rung goes on if it is among the best 1/eta of those that reached it
before, best by non-domination. Within the front that fits only in part the epsilon-net decides, not the contribution
to the hypervolume: the paper found it at least as good, it needs no reference point, which half-trained trials would
move about, and it spreads what goes on over the whole range of energies, from which a network is later picked.

Two rules are ours. Energy before the cut is the *promise* of the gates (the cost of what the budget would keep now), so
a trial that is still warming up is not judged. And a trial whose energy nobody near it shares goes on whatever its
accuracy: else the cheap end of the front, which learns slowly, would be empty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from greenprune_core.errors import ConfigError
from hpsearch.pareto import front_mask

REGION = 1.25
"""Energies within this factor share a region."""
USUAL_GRACE = 0.6
"""Share of the training before the first rung."""
MEMORY = 300
"""Latest trials of a rung that a new one is compared with: keeps a decision under 10 ms in the longest search."""


@dataclass(frozen=True, kw_only=True)
class Halving:
    """When trials are compared, and how many of them go on."""

    eta: int = 2
    """One in eta goes on from each rung."""
    grace: int = 1
    """Epochs before the first rung."""
    epochs: int
    """Epochs of a whole trial."""

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ConfigError(f"eta needs at least 2, but got {self.eta}; 2 is usual, --no-halving stops nothing early")
        if not 1 <= self.grace < self.epochs:
            raise ConfigError(
                f"grace lies between 1 epoch and the end of the training, but got grace={self.grace} for "
                f"{self.epochs} epochs; take less grace, longer training or --no-halving"
            )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trials are compared: grace, grace * eta, ..., all before the end."""
        n_rungs = 1 + math.floor(math.log((self.epochs - 1) / self.grace, self.eta) + 1e-9)
        return tuple(self.grace * self.eta**step for step in range(n_rungs))


def usual_grace(epochs: int) -> int:
    """Return the first rung if the user names none: six tenths of the training.

    By then every draw of the shipped spaces has frozen its gates. Before, accuracy says little: over the 400 trials of
    benchmarks/tables/digits.parquet (12 epochs) its rank correlates with the final one by 0.25 after epoch 2, 0.09
    after 4, 0.67 after 6 and 0.78 after 7, and halving at epochs 2 and 6 cost more than it saved.
    """
    return max(1, min(epochs - 1, round(USUAL_GRACE * epochs)))


class Rungs:
    """What trials reported at each rung, and who goes on."""

    def __init__(self, halving: Halving) -> None:
        self.halving = halving
        self._records: dict[int, dict[str, tuple[float, float]]] = {rung: {} for rung in halving.rungs}

    def record(self, trial_id: str, rung: int, accuracy: float, energy_j: float) -> None:
        """Take in a report without deciding, as when a run is resumed; a rung that is none any more is left out."""
        if rung in self._records:
            self._records[rung][trial_id] = (1.0 - accuracy, energy_j)

    def goes_on(self, trial_id: str, rung: int, accuracy: float, energy_j: float) -> bool:
        """Take in a report and decide whether the trial goes on."""
        self.record(trial_id, rung, accuracy, energy_j)
        records = list(self._records[rung].items())[-MEMORY:]
        place = [known for known, _ in records].index(trial_id)
        points = [point for _, point in records]
        return is_promoted(points, place, self.halving.eta) or is_alone(points, place)

    def reported(self, rung: int) -> Mapping[str, tuple[float, float]]:
        """Return (error, energy in joules) by trial at a rung."""
        return self._records.get(rung, {})


def is_promoted(points_N2: Sequence[Sequence[float]], place: int, eta: int) -> bool:
    """Say whether a point is among the best ceil(N / eta), by non-domination, then by the epsilon-net."""
    return place in best(points_N2, math.ceil(len(points_N2) / eta))


def is_alone(points_N2: Sequence[Sequence[float]], place: int) -> bool:
    """Say whether no other point has an energy within a factor `REGION` of this one's."""
    own = points_N2[place][1]
    return not any(
        max(own, other) <= REGION * min(own, other) for at, (_, other) in enumerate(points_N2) if at != place
    )


def best(points_NM: ArrayLike, n_best: int) -> list[int]:
    """Return the indices of the best points, all costs to be minimised, the best first.

    Fronts are taken whole while they fit; of the first that does not, the epsilon-net takes the most spread part.
    """
    points = np.asarray(points_NM, dtype=np.float64)
    left = np.arange(len(points))
    chosen: list[int] = []
    while len(chosen) < n_best and len(left):
        on_front = front_mask(points[left])
        if not on_front.any():
            break
        front = left[on_front]
        chosen += [int(front[place]) for place in spread(points[front])[: n_best - len(chosen)]]
        left = left[~on_front]
    return chosen


def spread(points_NM: NDArray[np.float64]) -> list[int]:
    """Order the points of a front as an epsilon-net: the most accurate first, then always the one farthest away.

    Each objective is scaled to [0, 1] over the front. Ties go to the earlier point.
    """
    low, high = points_NM.min(axis=0), points_NM.max(axis=0)
    scaled = (points_NM - low) / np.where(high > low, high - low, 1.0)
    order = [int(np.lexsort((scaled[:, 1], scaled[:, 0]))[0])]
    distance = np.linalg.norm(scaled - scaled[order[0]], axis=1)
    for _ in range(len(points_NM) - 1):
        distance[order[-1]] = -1.0
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order
