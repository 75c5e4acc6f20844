"""The arithmetic of fronts, on plain arrays of costs to be minimised.

Shapes: N points, M objectives. Hypervolume and non-domination come from moocore (Lopez-Ibanez and Fonseca); our own is
only what has to be incremental. A point with a NaN or an infinity is on no front and adds no volume.
"""

import bisect
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def front_mask(costs_NM: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates; equal points are all kept.

    A point dominates another if it is at most as large in every objective and smaller in one.

    Returns:
        Mask [N].
    """
    points = _points(costs_NM)
    mask: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    if not mask.any():
        return mask
    if points.shape[1] == 2:
        mask[mask] = _front_mask_2d(points[mask])
        return mask
    import moocore

    mask[mask] = moocore.is_nondominated(points[mask], keep_weakly=True)
    return mask


def hypervolume(costs_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """Return the volume between the points and the reference point; 0 if no point is better than the reference.

    Zitzler and Thiele, "Multiobjective optimization using evolutionary algorithms", PPSN 1998.
    """
    points, reference = _points(costs_NM), np.asarray(reference_M, dtype=float)
    points = points[np.isfinite(points).all(axis=1)] if len(points) else points
    points = points[(points < reference).all(axis=1)] if len(points) else points
    if not len(points):
        return 0.0
    import moocore

    return float(moocore.hypervolume(points, ref=reference))


def share_of_box(volume: float, reference_M: Sequence[float]) -> float:
    """Return a hypervolume as a share of the box between the reference and a free, perfect network; 0 of no box."""
    box = math.prod(reference_M)
    return volume / box if box > 0 else 0.0


def knee(costs_NM: ArrayLike) -> int:
    """Return the index of the front's knee: the point farthest from the plane through the front's extremes.

    Das, "On characterizing the knee of the Pareto curve", Structural Optimization 18 (1999). Each objective is scaled
    to [0, 1] over the front; there the distance falls with the sum of the costs. Ties go to the smaller first cost.

    Raises:
        ValueError: no finite point.
    """
    points = _points(costs_NM)
    on_front = np.flatnonzero(front_mask(points))
    if not len(on_front):
        raise ValueError("a knee needs at least one finite point, but got none; finish a trial first")
    front = points[on_front]
    low = front.min(axis=0)
    span = np.where(front.max(axis=0) > low, front.max(axis=0) - low, 1.0)
    total = ((front - low) / span).sum(axis=1).round(12)
    return int(on_front[np.lexsort((front[:, 0], total))[0]])


class FrontTracker:
    """A front that grows point by point and knows its hypervolume.

    With two objectives a point costs O(log n) to place plus what it removes; with more, the hypervolume is computed
    again, but only when the front changes.
    """

    def __init__(self, reference_M: Sequence[float]) -> None:
        """Start empty; only points better than the reference in every objective add volume."""
        self.reference = tuple(float(value) for value in reference_M)
        self.hypervolume = 0.0
        self.n_added = 0
        self._front: list[tuple[float, ...]] = []

    @property
    def front(self) -> list[tuple[float, ...]]:
        """The distinct non-dominated costs so far, ascending in the first objective."""
        return list(self._front)

    def add(self, costs_M: Sequence[float]) -> float:
        """Take one point in and return the hypervolume of all points so far, which never falls."""
        point = tuple(float(value) for value in costs_M)
        if len(point) != len(self.reference):
            raise ValueError(f"a point has {len(self.reference)} costs as the reference, but got {len(point)}")
        self.n_added += 1
        if not np.isfinite(point).all():
            return self.hypervolume
        if len(point) == 2:
            self._add_2d(point)
        elif not any(all(a <= b for a, b in zip(kept, point, strict=True)) for kept in self._front):
            beaten = [kept for kept in self._front if all(a <= b for a, b in zip(point, kept, strict=True))]
            self._front = sorted([*(kept for kept in self._front if kept not in beaten), point])
            # max: rounding of a recomputed volume must not show as a fall
            self.hypervolume = max(self.hypervolume, hypervolume(self._front, self.reference))
        return self.hypervolume

    def _add_2d(self, point: tuple[float, ...]) -> None:
        x, y = point
        place = bisect.bisect_left(self._front, (x, y))
        if place < len(self._front) and self._front[place] == (x, y):
            return
        if place and self._front[place - 1][1] <= y:
            return
        end = place
        ceiling = min(self._front[place - 1][1] if place else self.reference[1], self.reference[1])
        left, gained = min(x, self.reference[0]), 0.0
        # the new area lies right of x, above y, below the old staircase; walk the steps that the point removes
        while end < len(self._front) and self._front[end][1] >= y:
            step_x, step_y = self._front[end]
            gained += (min(step_x, self.reference[0]) - left) * max(ceiling - y, 0.0)
            left, ceiling = min(step_x, self.reference[0]), min(step_y, self.reference[1])
            end += 1
        right = min(self._front[end][0], self.reference[0]) if end < len(self._front) else self.reference[0]
        gained += (right - left) * max(ceiling - y, 0.0)
        self._front[place:end] = [(x, y)]
        self.hypervolume += gained


def _points(costs_NM: ArrayLike) -> Floats:
    points = np.asarray(costs_NM, dtype=np.float64)
    return points.reshape(len(points), -1) if points.size else np.zeros((0, 2))


def _front_mask_2d(points: Floats) -> NDArray[np.bool_]:
    """Sort once: a point is on the front if it is below everything before it, or equal to the last one that was."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    ordered = points[order]
    lowest_before = np.concatenate([[np.inf], np.minimum.accumulate(ordered[:, 1])[:-1]])
    is_new = ordered[:, 1] < lowest_before
    last_new = np.maximum.accumulate(np.where(is_new, np.arange(len(ordered)), 0))
    is_twin = (ordered == ordered[last_new]).all(axis=1)
    mask = np.zeros(len(points), dtype=bool)
    mask[order] = is_new | is_twin
    return mask
