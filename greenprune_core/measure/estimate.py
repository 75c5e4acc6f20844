"""A median with its 95 % interval, free of assumptions about the spread of the windows."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from greenprune_core.errors import ConfigError

FEWEST_WINDOWS = 6
"""Below this even the smallest and the largest value do not enclose the median with 95 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A median over n windows and the interval that holds it with a confidence of at least 95 %."""

    median: float
    low: float
    high: float
    n: int

    @property
    def relative_width(self) -> float:
        """Width of the interval over the median; infinite for a median of 0."""
        return (self.high - self.low) / abs(self.median) if self.median else math.inf


def estimate_median(values: Sequence[float]) -> Estimate:
    """Return the median and the interval between two order statistics (binomial, exact).

    Raises:
        ConfigError: fewer values than can hold a median with 95 %.
    """
    n = len(values)
    if n < FEWEST_WINDOWS:
        raise ConfigError(f"an interval needs at least {FEWEST_WINDOWS} windows, but got {n}; measure for longer")
    ordered = sorted(values)
    rank, tail = 0, 0.5**n
    # the median lies outside (rank-th smallest, rank-th largest) with twice this tail
    while 2 * (tail + math.comb(n, rank + 1) * 0.5**n) <= 0.05:
        rank += 1
        tail += math.comb(n, rank) * 0.5**n
    return Estimate(median=statistics.median(ordered), low=ordered[rank], high=ordered[n - 1 - rank], n=n)
